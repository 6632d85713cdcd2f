"""Input → serialized Examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.example import example_pb2
from tensorflow_serving.apis import input_pb2

from serving.server.examples import serialized_examples
from serving.server.status import Code, StatusError

_NAMES = st.dictionaries(st.sampled_from("abcd"), st.integers(-(2**63), 2**63 - 1), max_size=4)


def example(features: dict[str, int]) -> example_pb2.Example:
    made = example_pb2.Example()
    for name, value in features.items():
        made.features.feature[name].int64_list.value.append(value)
    return made


def read(serialized: bytes) -> dict[str, int]:
    features = example_pb2.Example.FromString(serialized).features.feature
    return {name: features[name].int64_list.value[0] for name in features}


@given(st.lists(_NAMES, min_size=1, max_size=5))
def test_a_list_comes_as_it_is(examples: list[dict[str, int]]) -> None:
    given_ = input_pb2.Input()
    given_.example_list.examples.extend(example(each) for each in examples)
    array = serialized_examples(given_)
    assert (array.dtype, array.shape) == (np.dtype(object), (len(examples),))
    assert [read(each) for each in array] == examples


@given(_NAMES, st.lists(_NAMES, min_size=1, max_size=5))
def test_a_context_is_merged_into_every_example_and_the_example_wins(
    context: dict[str, int], examples: list[dict[str, int]]
) -> None:
    given_ = input_pb2.Input()
    given_.example_list_with_context.context.CopyFrom(example(context))
    given_.example_list_with_context.examples.extend(example(each) for each in examples)
    assert [read(each) for each in serialized_examples(given_)] == [{**context, **each} for each in examples]


def test_nothing_is_refused() -> None:
    empty, only_context = input_pb2.Input(), input_pb2.Input()
    only_context.example_list_with_context.context.CopyFrom(example({"a": 1}))
    chosen = input_pb2.Input()
    chosen.example_list.SetInParent()
    for given_ in (empty, only_context, chosen):
        with pytest.raises(StatusError) as caught:
            serialized_examples(given_)
        assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, "Input is empty.")
