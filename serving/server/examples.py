"""What Classify and Regress are given: tensorflow.serving.Input, as the serialized tf.Examples that the model's parser reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from serving.server.status import invalid


def serialized_examples(given: Any) -> npt.NDArray[np.object_]:
    """The Examples of an Input.

    With ExampleListWithContext each is the context followed by the Example: joined serialized protos merge, so that an Example's
    feature of the same name wins (InputToSerializedExampleTensor in tensorflow_serving/servables/tensorflow/util.cc).

    Args:
        given: A tensorflow.serving.Input.

    Returns:
        Serialized Examples, shape [n].

    Raises:
        StatusError: INVALID_ARGUMENT `Input is empty.`
    """
    kind = given.WhichOneof("kind")
    if kind == "example_list":
        serialized = [example.SerializeToString() for example in given.example_list.examples]
    elif kind == "example_list_with_context":
        listed = given.example_list_with_context
        context = listed.context.SerializeToString()
        serialized = [context + example.SerializeToString() for example in listed.examples]
    else:
        serialized = []
    if not serialized:
        raise invalid("Input is empty.")
    array = np.empty(len(serialized), dtype=object)
    array[:] = serialized
    return array
