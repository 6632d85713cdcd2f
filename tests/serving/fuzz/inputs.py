"""Requests with something wrong in them, from a seed: REST's paths, headers and bodies, gRPC's fields and bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.serving.conformance.rest_cases import ANSWERED, REFUSED
from tests.serving.conformance.servers import methods

_CASES = [*((case.path, case.body) for case in ANSWERED), *((case.path, case.body) for case in REFUSED)]
TOKENS = [
    *b'NaN -Infinity 1e999 -1e-999 - 0x10 007 1. .5 1E 18446744073709551616 -9223372036854775809 null true "" " \' \\'.split(),
    *rb'\u0000 \ud800 \uDFFF\uD800 \x { } [ ] , : [[[[[[[[ {} [] {"b64":"===="} {"b64":1} "b64"'.split(),
    *b"/ // .. %2e%2e%2f %00 % ? # /versions/ /labels/ :predict /metadata".split(),
    *(b" ", b"\t", b"\r", b"\x00", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 2**31, 2**63, 2**64, -(2**63) - 1, 1e308, float("nan"), float("inf")),
    *("", "a", "\u0000", "\ud800", "serving_default", [], {}, [[]], [{}], [None], [[1], [2, 3]], {"x": [1]}),
    *({"b64": "YQ=="}, {"b64": ""}, {"b64": "%"}, {"b64": None}),
]
SIZES = [-(2**63), -1, 0, 1, 2, 3, 1000, 2**62, 2**63 - 1]
"""Dimensions: no request may make even a well-meaning server fill gigabytes."""


@dataclass(frozen=True)
class RestInput:
    """An HTTP request, as sent."""

    raw: bytes


@dataclass(frozen=True)
class GrpcInput:
    """A gRPC method and the bytes of its request."""

    method: str
    payload: bytes


def inputs(seed: int, first: int, count: int) -> Iterator[RestInput | GrpcInput]:
    """The inputs `first` to `first + count`; each depends on the seed and its own number only. Loads TensorFlow."""
    messages = _messages()
    for number in range(first, first + count):
        chance = random.Random(f"{seed}-{number}")
        yield _rest_input(chance) if number % 2 else _grpc_input(chance, messages)


def _rest_input(chance: random.Random) -> RestInput:
    path, body = (text.encode() for text in chance.choice(_CASES))
    if chance.random() < 0.6:
        body = _changed_json(body, chance)
    if chance.random() < 0.3:
        body = _changed_bytes(body, chance)
    if chance.random() < 0.1:
        path = _changed_bytes(path, chance)
    method = b"POST" if chance.random() < 0.9 else chance.choice([b"GET", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"])
    # A line break in the path would make another request of it, whose answer nobody waits for.
    path = bytes(byte for byte in path if byte not in b"\r\n")
    encoding = b"Content-Encoding: gzip\r\n" if chance.random() < 0.02 else b""
    head = b"%s /v1/models/%s HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: %d\r\n\r\n" % (method, path, encoding, len(body))
    return RestInput(head + body)


def _changed_json(body: bytes, chance: random.Random) -> bytes:
    """Another value in one place of a JSON document, if it is one."""
    try:
        document = json.loads(body)
    except ValueError:
        return body
    holder: Any = [document]
    places = [(holder, 0)]
    for inner, key in places:
        node = inner[key]
        if isinstance(node, dict | list):
            places.extend((node, each) for each in (node if isinstance(node, dict) else range(len(node))))
    node, key = chance.choice(places)
    value = chance.choice(VALUES)
    match chance.randrange(5):
        case 0 if isinstance(node[key], list):
            node[key] = node[key] * chance.choice([2, 50])
        case 1 if isinstance(node, dict):
            node[f"{key}{chance.choice(['', '0', '_'])}"] = value
        case 2:
            depth = chance.choice([1, 2, 30, 3000])
            return body.replace(b"[", b"[" * depth, 1).replace(b"]", b"]" * depth, 1)
        case _:
            node[key] = value
    return json.dumps(holder[0], ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")


def _changed_bytes(text: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        start, end = sorted((chance.randint(0, len(text)), chance.randint(0, len(text))))
        middle: Callable[[], bytes] = chance.choice(
            [
                lambda: b"",
                lambda: chance.choice(TOKENS),
                lambda: text[start:end] * chance.choice([2, 3, 40]),  # noqa: B023 - called before they change
                lambda: chance.randbytes(chance.choice([1, 2, 8])),
                lambda: bytes(byte ^ (1 << chance.randrange(8)) for byte in text[start:end][:2]) + text[start:end][2:],  # noqa: B023
            ]
        )
        keep = chance.random() < 0.5
        text = text[:start] + middle() + text[start if keep else end :]
    return text[: 2**18]


def _messages() -> Sequence[tuple[str, Any]]:
    """Valid requests: the table of refusals, most of which are only just not valid, and one answered request of each kind."""
    from google.protobuf import text_format

    from tests.serving.conformance.test_grpc_refusals import CASES, CLASSIFY, EXAMPLE, TWO, X, spec, task, tensor

    strings = tensor("text", 'dtype: DT_STRING tensor_shape { dim { size: 2 } } string_val: "a" string_val: "b"')
    content = tensor("x", 'dtype: DT_FLOAT tensor_shape { dim { size: 1 } dim { size: 2 } } tensor_content: "12345678"')
    answered = [
        ("Predict", spec() + X),
        ("Predict", TWO + tensor("a") + tensor("b")),
        ("Predict", spec("kinds") + content),
        ("Predict", spec("kinds", signature_name='"strings"') + strings),
        ("Classify", spec(signature_name='"classify_labels"') + EXAMPLE),
        ("Regress", spec(signature_name='"regress_x_to_y"') + EXAMPLE),
        (
            "MultiInference",
            task("half_plus_two", "regress_x_to_y") + task("half_plus_two", "classify_x_to_y", CLASSIFY) + EXAMPLE,
        ),
        ("GetModelStatus", spec()),
    ]
    texts = [*answered * 4, *((case.method, case.request) for case in CASES)]
    return [(method, text_format.Parse(text, methods()[method].request())) for method, text in texts]


def _grpc_input(chance: random.Random, messages: Sequence[tuple[str, Any]]) -> GrpcInput:
    method, original = chance.choice(messages)
    message = type(original).FromString(original.SerializeToString())
    if chance.random() < 0.6 and hasattr(message, "inputs"):
        for name in list(message.inputs):
            _change_tensor(message.inputs[name], chance)
    payload: bytes = message.SerializeToString()
    if chance.random() < 0.4:
        payload = _changed_bytes(payload, chance)
    if chance.random() < 0.05:
        method = chance.choice(messages)[0]
    return GrpcInput(method, payload if _modest(method, payload) else original.SerializeToString())


def _change_tensor(proto: Any, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 1, 2])):
        match chance.randrange(8):
            case 0:
                proto.dtype = chance.choice([*range(24), 101, 123, 2**31 - 1])
            case 1:
                proto.tensor_shape.dim.add().size = chance.choice(SIZES)
            case 2 if proto.tensor_shape.dim:
                chance.choice(proto.tensor_shape.dim).size = chance.choice(SIZES)
            case 3:
                proto.tensor_shape.unknown_rank = True
            case 4:
                proto.tensor_content = chance.randbytes(chance.choice([0, 1, 4, 8, 4000]))
            case 5:
                proto.float_val.extend([chance.choice([0.0, float("nan"), 3e38])] * chance.choice([1, 2, 1000]))
            case 6:
                proto.string_val.extend([chance.randbytes(3)] * chance.choice([1, 5]))
            case _:
                proto.ClearField(chance.choice(["dtype", "tensor_shape", "float_val", "string_val", "tensor_content"]))


def _modest(method: str, payload: bytes) -> bool:
    """Whether no tensor in it asks for gigabytes and might get them."""
    from google.protobuf.message import DecodeError

    try:
        message = methods()[method].request.FromString(payload)
    except DecodeError:
        return True
    for proto in message.inputs.values() if hasattr(message, "inputs") else ():
        size = 1
        for dim in proto.tensor_shape.dim:
            size *= max(dim.size, 0)
        if 2**22 < size < 2**48:
            return False
    return True
