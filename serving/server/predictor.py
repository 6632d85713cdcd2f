"""What a request means, whatever it came by: gRPC and REST both call the predictor, in TensorFlow Serving's order of checks.

Only the server's process imports this module: it loads TensorFlow's protos.

The shape of it: hold a version (`Models.acquire`), find the signature, check names, dtypes and outputs, run, answer. Every
refusal is a StatusError with TensorFlow Serving's code and words (servables/tensorflow/predict_impl.cc, classifier.cc,
regressor.cc; model_servers/server_core.cc).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy.typing as npt
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    model_pb2,
    predict_pb2,
    prediction_log_pb2,
    regression_pb2,
)

from serving.server.examples import serialized_examples
from serving.server.inference import INPUT, METHODS
from serving.server.lifecycle import Loaded, Models
from serving.server.model_calls import check_metadata_fields, metadata_response, model_status, reload_config
from serving.server.multi_inference import checked_tasks, run_tasks
from serving.server.observers import Observer, RequestLog
from serving.server.options import ServerOptions
from serving.server.predict_checks import (
    CLASSIFY_METHOD,
    DEFAULT_SIGNATURE,
    REGRESS_METHOD,
    bind_inputs,
    check_dtypes,
    check_predict_method,
    wanted_outputs,
)
from serving.server.servable import Arrays, Signature
from serving.server.status import Code, StatusError, invalid
from serving.server.tensors import to_array, to_proto

T = TypeVar("T")


@dataclass(frozen=True)
class PredictResult:
    """What a model answered.

    Attributes:
        outputs: In the order of the output filter, or else of the signature; strings are object arrays of bytes.
        name: The model.
        version: That answered.
        signature: Its key, default filled in.
    """

    outputs: dict[str, npt.NDArray[Any]]
    name: str
    version: int
    signature: str


class Predictor:
    """Answers requests from the models that a manager holds. Every method may be called from many threads at once.

    Attributes:
        models: For protocols that need what is below a request (statuses, names, config, readiness).
        observed: Whether anybody is told of requests; if not, `requested` need not be called.
    """

    def __init__(
        self, models: Models, options: ServerOptions, observers: Sequence[Observer] = (), log: RequestLog | None = None
    ) -> None:
        """Args: where versions come from; the server's flags; who is told of requests; where samples of them go."""
        self.models = models
        self._check_method = options.enable_signature_method_name_check
        self._as_content = options.enable_serialization_as_tensor_content
        self.observed = bool(observers)
        self._shared = options.processes > 1
        self._observers = tuple(observers)
        self._log = log

    def hold(self, name: str, version: int | None = None, label: str | None = None) -> AbstractContextManager[Loaded]:
        """Holds a version while a request is converted, run and answered.

        Raises:
            StatusError: INVALID_ARGUMENT for an empty name or an unknown label, NOT_FOUND for an unknown model or version.
        """
        if not name:
            raise invalid("ModelSpec has no name specified.")
        return self.models.acquire(name, version, label)

    @contextmanager
    def signature(
        self, name: str, version: int | None = None, label: str | None = None, key: str = ""
    ) -> Iterator[tuple[Loaded, Signature]]:
        """Holds a version and finds one of its signatures; give both to `run_held`, so that one version does it all.

        Args:
            name: The model.
            version: None for the newest.
            label: Instead of a version.
            key: The signature; "" for "serving_default".

        Raises:
            StatusError: As `hold`; FAILED_PRECONDITION `Serving signature key "S" not found.`
        """
        with self.hold(name, version, label) as loaded:
            yield loaded, _predict_signature(loaded, key or DEFAULT_SIGNATURE)

    def run_held(
        self,
        loaded: Loaded,
        key: str,
        inputs: Arrays,
        output_filter: Sequence[str] = (),
        deadline: float | None = None,
    ) -> PredictResult:
        """Predict on arrays, on a version that is held.

        Args:
            loaded: From `hold` or `signature`.
            key: The signature; "" for "serving_default".
            inputs: By alias; strings are object arrays of bytes. Inputs with a default may be missing.
            output_filter: The wanted outputs; none for all.
            deadline: time.monotonic() value after which the answer is of no use.

        Raises:
            StatusError: As TensorFlow Serving's Predict; DEADLINE_EXCEEDED.
        """
        result = self._predict(loaded, key or DEFAULT_SIGNATURE, inputs, _as_is, output_filter, deadline)
        if self._wanted(loaded):
            request = predict_pb2.PredictRequest(model_spec=_model_spec(loaded, key), output_filter=output_filter)
            for alias, array in inputs.items():
                request.inputs[alias].CopyFrom(to_proto(array, as_content=False))
            self._put(loaded, key, "predict_log", request, self._predict_response(result))
        return result

    def run(
        self,
        name: str,
        version: int | None,
        label: str | None,
        signature: str,
        inputs: Arrays,
        output_filter: Sequence[str] = (),
        deadline: float | None = None,
    ) -> PredictResult:
        """`hold` and `run_held` in one."""
        with self.hold(name, version, label) as loaded:
            return self.run_held(loaded, signature, inputs, output_filter, deadline)

    def predict(self, request: Any, deadline: float | None = None) -> Any:
        """PredictRequest → PredictResponse. The outputs' tensors use typed fields, or tensor_content with the flag."""
        spec = _required_spec(request)
        key = spec.signature_name or DEFAULT_SIGNATURE
        with self._hold_spec(spec) as loaded:
            result = self._predict(loaded, key, request.inputs, to_array, request.output_filter, deadline)
        response = self._predict_response(result)
        self._keep(loaded, key, "predict_log", request, response)
        return response

    def classify(self, request: Any, deadline: float | None = None) -> Any:
        """ClassificationRequest → ClassificationResponse (REST builds the request with ExampleList or ...WithContext)."""
        response = classification_pb2.ClassificationResponse()
        loaded = self._infer(request, response, CLASSIFY_METHOD, "Classify", deadline)
        self._keep(loaded, response.model_spec.signature_name, "classify_log", request, response)
        return response

    def regress(self, request: Any, deadline: float | None = None) -> Any:
        """RegressionRequest → RegressionResponse."""
        response = regression_pb2.RegressionResponse()
        loaded = self._infer(request, response, REGRESS_METHOD, "Regress", deadline)
        self._keep(loaded, response.model_spec.signature_name, "regress_log", request, response)
        return response

    def multi_inference(self, request: Any, deadline: float | None = None) -> Any:
        """MultiInferenceRequest → MultiInferenceResponse, all tasks in one run of the model where the runtime can."""
        first = request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
        response = inference_pb2.MultiInferenceResponse()
        with self._hold_spec(first) as loaded:
            tasks = checked_tasks(request, loaded, self._check_method)
            examples = serialized_examples(request.input)
            self._observe_examples(loaded.name, len(examples))
            outputs = self._timed(loaded, "MultiInference", lambda: run_tasks(loaded, tasks, examples, deadline))
        for task, arrays in zip(tasks, outputs, strict=True):
            result = response.results.add(model_spec=_model_spec(loaded, task.key))
            field = result.classification_result if task.method.name == CLASSIFY_METHOD else result.regression_result
            field.CopyFrom(task.method.result(arrays, len(examples)))
        self._keep(loaded, "", "multi_inference_log", request, response)
        return response

    def metadata(self, request: Any) -> Any:
        """GetModelMetadataRequest → GetModelMetadataResponse; metadata["signature_def"] is an Any with a SignatureDefMap."""
        spec = _required_spec(request)
        check_metadata_fields(request)
        with self._hold_spec(spec) as loaded:
            return metadata_response(loaded)

    def status(self, request: Any) -> Any:
        """GetModelStatusRequest → GetModelStatusResponse, versions descending."""
        return model_status(self.models, _required_spec(request))

    def reload(self, request: Any, deadline: float | None = None) -> Any:
        """ReloadConfigRequest → ReloadConfigResponse; returns when new models are AVAILABLE, or raises at the deadline."""
        if self._shared:
            raise StatusError(
                Code.FAILED_PRECONDITION,
                "With several --processes a reload would reach only one of them; "
                "change --model_config_file, with --model_config_file_poll_wait_seconds set",
            )
        return reload_config(self.models, request, deadline)

    def requested(self, model: str, api: str, entrypoint: str, code: str, seconds: float) -> None:
        """Tells the observers of an answered request; the protocols call it, since they know when it arrived."""
        for observer in self._observers:
            observer.requested(model, api, entrypoint, code, seconds)

    def _hold_spec(self, spec: Any) -> AbstractContextManager[Loaded]:
        choice = spec.WhichOneof("version_choice")
        if choice is None:
            return self.hold(spec.name)
        if choice == "version":
            return self.hold(spec.name, version=spec.version.value)
        return self.hold(spec.name, label=spec.version_label)

    def _predict(
        self,
        loaded: Loaded,
        key: str,
        given: Mapping[str, Any],
        convert: Callable[[Any, str], npt.NDArray[Any]],
        output_filter: Sequence[str],
        deadline: float | None,
    ) -> PredictResult:
        signature = _predict_signature(loaded, key)
        if self._check_method:
            check_predict_method(signature)
        inputs = bind_inputs(signature, given, convert)
        outputs = wanted_outputs(signature, output_filter)
        check_dtypes(signature, inputs)
        arrays = self._timed(loaded, "Predict", lambda: loaded.servable.run(key, inputs, outputs, deadline))
        return PredictResult({alias: arrays[alias] for alias in outputs}, loaded.name, loaded.version, key)

    def _predict_response(self, result: PredictResult) -> Any:
        response = predict_pb2.PredictResponse()
        spec = response.model_spec
        spec.name, spec.signature_name, spec.version.value = result.name, result.signature, result.version
        for alias, array in result.outputs.items():
            response.outputs[alias].MergeFrom(to_proto(array, as_content=self._as_content))
        return response

    def _infer(self, request: Any, response: Any, method: str, api: str, deadline: float | None) -> Loaded:
        """Classify or Regress: fills the response."""
        spec = _required_spec(request)
        key = spec.signature_name or DEFAULT_SIGNATURE
        with self._hold_spec(spec) as loaded:
            signature = loaded.servable.signatures.get(key)
            if signature is None:
                raise invalid(f"No signature was found with the name: {key}")
            outputs = METHODS[method].outputs(signature, self._check_method)
            examples = serialized_examples(request.input)
            inputs = {INPUT: examples}
            check_dtypes(signature, inputs)
            self._observe_examples(loaded.name, len(examples))
            arrays = self._timed(loaded, api, lambda: loaded.servable.run(key, inputs, outputs, deadline))
        response.model_spec.CopyFrom(_model_spec(loaded, key))
        response.result.CopyFrom(METHODS[method].result(arrays, len(examples)))
        return loaded

    def _timed(self, loaded: Loaded, api: str, run: Callable[[], T]) -> T:
        if not self._observers:
            return run()
        start = time.monotonic()
        result = run()
        seconds = time.monotonic() - start
        for observer in self._observers:
            observer.ran(loaded.name, api, seconds)
        return result

    def _observe_examples(self, model: str, count: int) -> None:
        for observer in self._observers:
            observer.examples(model, count)

    def _keep(self, loaded: Loaded, key: str, field: str, request: Any, response: Any) -> None:
        """Gives the request log a PredictionLog, if it wants this one; `field` is the one of PredictionLog to fill."""
        if self._wanted(loaded):
            self._put(loaded, key, field, request, response)

    def _wanted(self, loaded: Loaded) -> bool:
        return self._log is not None and self._log.wants(loaded.name)

    def _put(self, loaded: Loaded, key: str, field: str, request: Any, response: Any) -> None:
        assert self._log is not None
        log = prediction_log_pb2.PredictionLog()
        log.log_metadata.model_spec.CopyFrom(_model_spec(loaded, key))
        log.log_metadata.timestamp_secs = int(time.time())
        getattr(log, field).request.CopyFrom(request)
        getattr(log, field).response.CopyFrom(response)
        self._log.put(loaded.name, log)


def _required_spec(request: Any) -> Any:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return request.model_spec


def _predict_signature(loaded: Loaded, key: str) -> Signature:
    signature = loaded.servable.signatures.get(key)
    if signature is None:
        raise StatusError(Code.FAILED_PRECONDITION, f'Serving signature key "{key}" not found.')
    return signature


def _model_spec(loaded: Loaded, key: str) -> Any:
    spec = model_pb2.ModelSpec(name=loaded.name, signature_name=key or DEFAULT_SIGNATURE)
    spec.version.value = loaded.version
    return spec


def _as_is(array: npt.NDArray[Any], alias: str) -> npt.NDArray[Any]:
    return array
