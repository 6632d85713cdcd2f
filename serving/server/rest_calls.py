"""Predict, Classify and Regress: a body → the predictor → a body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serving.server.rest_answers import classifications_json, predictions_json, regressions_json
from serving.server.rest_examples import fill_request
from serving.server.rest_json import Document, parse
from serving.server.rest_predict import parse_inputs, signature_name
from serving.server.rest_routes import Route
from serving.server.status import invalid

if TYPE_CHECKING:
    from serving.server.predictor import Predictor

DEFAULT_SIGNATURE = "serving_default"


def infer(predictor: Predictor, asked: Route, body: bytes, deadline: float | None, strict: bool) -> bytes:
    """The answer to a request.

    Args:
        predictor: Computes.
        asked: predict, classify or regress, of what.
        body: JSON.
        deadline: time.monotonic() value after which the answer is of no use.
        strict: Whether the answer must be valid JSON where a number is not finite.

    Raises:
        StatusError: As TensorFlow Serving's REST API says it.
    """
    document = parse(body)
    if asked.action == "predict":
        return _predict(predictor, asked, document, deadline, strict)
    request = _examples_request(asked, document)
    if asked.action == "classify":
        return classifications_json(predictor.classify(request, deadline).result, strict)
    return regressions_json(predictor.regress(request, deadline).result, strict)


def _predict(predictor: Predictor, asked: Route, document: Document, deadline: float | None, strict: bool) -> bytes:
    name = signature_name(document)
    with predictor.hold(asked.model, asked.version, asked.label) as loaded:
        signature = loaded.servable.signatures.get(name or DEFAULT_SIGNATURE)
        if signature is None:
            raise invalid(f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in signature def')
        inputs, row = parse_inputs(document, signature.inputs, name)
        result = predictor.run_held(loaded, name, inputs, (), deadline)
    return predictions_json(result.outputs, row=row, strict=strict)


def _examples_request(asked: Route, document: Document) -> Any:
    # TensorFlow's protos take seconds to import; the server has them already.
    from tensorflow_serving.apis import classification_pb2, regression_pb2

    request = classification_pb2.ClassificationRequest() if asked.action == "classify" else regression_pb2.RegressionRequest()
    request.model_spec.name = asked.model
    if asked.version is not None:
        request.model_spec.version.value = asked.version
    elif asked.label is not None:
        request.model_spec.version_label = asked.label
    fill_request(document, request)
    return request
