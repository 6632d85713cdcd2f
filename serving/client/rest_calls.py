"""A client's questions as HTTP requests, and the JSON answers as values.

JSON has one kind of number, so arrays get the dtypes that the model's metadata declares. Tensors go in the columnar form
("inputs"), which keeps shapes as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from serving.client.rest_json import dump, from_array, from_features, parse, to_array
from serving.client.values import Array, Prediction, Signature, Spec, State, Tensor, VersionStatus
from serving.server.status import Code
from serving.server.tensors import dtype_name, numpy_dtype

_LAST_DTYPE = 30
"""DT_UINT4, the last of DataType (tensorflow/core/framework/types.proto) that has values."""


@dataclass(frozen=True)
class RestCall:
    """A path with a body (POST) or without (GET), and how the body of the answer is read."""

    path: str
    body: bytes | None
    read: Callable[[bytes], Any]
    repeatable = True


def predict(spec: Spec, name: str, inputs: Mapping[str, Array], outputs: Sequence[str], signature: Signature | None) -> RestCall:
    """POST …:predict; the answer is a Prediction with the signature's dtypes.

    REST has no output filter: all outputs are sent, and those not in `outputs` dropped here.
    """
    assert signature is not None
    body = {"signature_name": name, "inputs": {key: from_array(array) for key, array in inputs.items()}}

    def read(answer: bytes) -> Prediction:
        found = parse(answer)["outputs"]
        names = sorted(signature.outputs)
        by_name = {names[0]: found} if len(names) == 1 else found
        if sorted(by_name) != names:
            raise ValueError(f"expected the outputs {', '.join(names)}, got {', '.join(sorted(by_name))}")
        return Prediction({key: to_array(by_name[key], signature.outputs[key]) for key in sorted(outputs) or names})

    return RestCall(f"{path_of(spec)}:predict", dump(body), read)


def classify(spec: Spec, name: str, examples: Sequence[Mapping[str, Any]]) -> RestCall:
    """POST …:classify; the answer is, for each example, a list of (label, score)."""

    def read(answer: bytes) -> list[list[tuple[str, float]]]:
        return [[(str(label), float(score)) for label, score in row] for row in parse(answer)["results"]]

    return RestCall(f"{path_of(spec)}:classify", _examples(name, examples), read)


def regress(spec: Spec, name: str, examples: Sequence[Mapping[str, Any]]) -> RestCall:
    """POST …:regress; the answer is a number for each example."""

    def read(answer: bytes) -> list[float]:
        return [float(each) for each in parse(answer)["results"]]

    return RestCall(f"{path_of(spec)}:regress", _examples(name, examples), read)


def _examples(name: str, examples: Sequence[Mapping[str, Any]]) -> bytes:
    return dump({"signature_name": name, "examples": [from_features(each) for each in examples]})


def status(spec: Spec) -> RestCall:
    """GET /v1/models/NAME; the answer is a list of VersionStatus, the newest first."""

    def read(answer: bytes) -> list[VersionStatus]:
        found = [
            VersionStatus(
                int(each["version"]), State[each["state"]], Code[each["status"]["error_code"]], each["status"]["error_message"]
            )
            for each in parse(answer)["model_version_status"]
        ]
        return sorted(found, key=lambda each: -each.version)

    return RestCall(path_of(spec), None, read)


def metadata(spec: Spec) -> RestCall:
    """GET …/metadata; the answer is (version, signatures by name), the init op left out."""

    def read(answer: bytes) -> tuple[int, dict[str, Signature]]:
        found = parse(answer)
        signatures = found["metadata"]["signature_def"]["signature_def"]
        described = {
            name: Signature(_tensors(each.get("inputs", {})), _tensors(each.get("outputs", {})), each.get("method_name", ""))
            for name, each in sorted(signatures.items())
            if not name.startswith("__")
        }
        return int(found["model_spec"]["version"]), described

    return RestCall(f"{path_of(spec)}/metadata", None, read)


def path_of(spec: Spec) -> str:
    """The path of a model, a version or a label; names are quoted, so that none of them leads elsewhere.

    Raises:
        ValueError: The name is "." or "..", which no quoting keeps from being a step in a path.
    """
    if {spec.model, spec.label} & {".", ".."}:
        raise ValueError(f"expected the name of a model, got {spec.model!r}")
    path = f"/v1/models/{quote(spec.model, safe='')}"
    if spec.version is not None:
        path += f"/versions/{spec.version}"
    return path + (f"/labels/{quote(spec.label, safe='')}" if spec.label is not None else "")


def _tensors(infos: Mapping[str, Any]) -> dict[str, Tensor]:
    numbers = {f"DT_{dtype_name(number).upper()}": number for number in range(_LAST_DTYPE + 1)}
    described = {}
    for name, info in sorted(infos.items()):
        known = info.get("tensor_shape", {})
        sizes = [int(dim.get("size", 0)) for dim in known.get("dim", [])]
        shape = None if known.get("unknown_rank") else tuple(size if size >= 0 else None for size in sizes)
        try:
            described[name] = Tensor(numpy_dtype(numbers[info["dtype"]]), shape)
        except KeyError:
            continue
    return described
