"""The command line: what ends the server and with what, what it passes over, and what the flags of `flagged` and `plain` do."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.serving.conformance.conftest import Flagged
from tests.serving.conformance.models import model_list
from tests.serving.conformance.servers import EMBEDDED, Connection, Refusal, Server, run, wait_until
from tests.serving.conformance.test_grpc_answers import array, examples, request
from tests.serving.conformance.test_grpc_refusals import spec

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_server")]

FAILED = "Failed to start server. Error: "


@pytest.mark.parametrize(
    ("flags", "code", "printed"),
    [
        (["--help"], 255, "usage: "),
        (["--version"], 0, "TensorFlow ModelServer: "),
        (["--port=many"], 255, "port"),
        (["--enable_batching=perhaps"], 255, "enable_batching"),
        (["--batching_parameters_file=x"], 255, FAILED),
        (
            [f"--tensorflow_{each}_parallelism=1" for each in ("session", "intra_op", "inter_op")]
            + ["--model_base_path=/nowhere"],
            255,
            FAILED,
        ),
        (
            ["--model_base_path=relative/path"],
            255,
            "Expected model default to have an absolute path or URI; got base_path()=relative/path",
        ),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_ends_at_once(flags: list[str], code: int, printed: str) -> None:
    ended, output = run(flags)
    assert printed in output
    assert ended == code, output
    if printed == "usage: ":
        assert all(f"--{name}=" in output for name in ("port", "rest_api_port", "model_base_path", "enable_batching"))
    if flags == ["--version"]:
        assert len(output.strip().splitlines()) == 2


def test_config_that_does_not_parse(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text("model_config_list { config { nome: 1 } }")
    code, output = run({"model_config_file": file})
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig" in output
    assert code != 0


def test_no_port_opens_before_every_model_is_loaded_or_has_failed(tmp_path: Path, shop: Path) -> None:
    """One model that cannot be loaded keeps the server from starting."""
    (tmp_path / "bad" / "1").mkdir(parents=True)
    (tmp_path / "bad" / "1" / "saved_model.pb").write_bytes(b"nonsense")
    file = tmp_path / "models.config"
    file.write_text(model_list({"good": (shop / "half_plus_two", ""), "bad": (tmp_path / "bad", "")}))
    code, output = run({"model_config_file": file, "max_num_load_retries": 0})
    assert FAILED in output
    assert code == 255


def test_unknown_flags_and_those_without_effect_do_not_stop_it(plain: Server) -> None:
    assert "unknown argument: --no_such_flag=1" in plain.log()
    assert plain.states("half_plus_two") == {123: "AVAILABLE"}


def test_tls(flagged: Flagged) -> None:
    asked = request("half_plus_two", {"x": np.array([[1]], np.float32)})
    assert array(flagged.server.call("Predict", asked).outputs["y"]).tolist() == [[2.5]]
    plain_text = Connection(f"localhost:{flagged.server.port}", "unused")
    with pytest.raises(Refusal, match="UNAVAILABLE"):
        plain_text.call("Predict", asked, timeout=10)
    plain_text.close()


def test_tensor_content(flagged: Flagged) -> None:
    answer = flagged.server.call("Predict", request("half_plus_two", {"x": np.array([[1]], np.float32)})).outputs["y"]
    assert answer.tensor_content == np.array([[2.5]], np.float32).tobytes()
    assert not answer.float_val


def test_method_name_check(flagged: Flagged) -> None:
    signature = spec("kinds", signature_name='"regress"')
    with pytest.raises(Refusal) as caught:
        flagged.server.call("Regress", signature + examples([2]))
    assert caught.value.code == "INVALID_ARGUMENT"
    answer = flagged.server.call("Regress", spec(signature_name='"regress_x_to_y"') + examples([2]))
    assert answer.result.regressions[0].value == 3


def test_tflite_is_preferred_where_there_is_one(flagged: Flagged, plain: Connection) -> None:
    """The folder's SavedModel would say x/2 + 1."""
    answer = flagged.server.call("Predict", request("lite", {"x": np.array([[1, 2], [3, 4]], np.float32)}))
    assert array(answer.outputs["y"]).tolist() == [[2, 4], [6, 8]]


def test_the_config_file_is_read_again(flagged: Flagged, shop: Path) -> None:
    before = flagged.config.read_text()
    new = flagged.config.with_suffix(".new")
    new.write_text(
        before.replace("model_config_list {\n", model_list({"added": (shop / "versions", "")}).rstrip("}\n") + " }\n", 1)
    )
    new.replace(flagged.config)
    wait_until(lambda: flagged.server.states("added") == {3: "AVAILABLE"})
    assert flagged.server.states("half_plus_two") == {123: "AVAILABLE"}


def test_batches_are_put_together_and_taken_apart(flagged: Flagged) -> None:
    def ask(number: int) -> list[list[float]]:
        rows = np.full([number % 4 + 1, 2], number, np.float32)
        while True:
            try:
                answer: list[list[float]] = array(
                    flagged.server.call("Predict", request("kinds", {"x": rows})).outputs["y"]
                ).tolist()
                return answer
            except Refusal as refusal:
                assert refusal.code == "UNAVAILABLE", refusal

    with ThreadPoolExecutor(6) as threads:
        for number, answer in enumerate(threads.map(ask, range(60))):
            assert answer == [[2.0 * number] * 2] * (number % 4 + 1)


def test_a_request_greater_than_a_batch(flagged: Flagged) -> None:
    with pytest.raises(Refusal) as caught:
        flagged.server.call("Predict", request("kinds", {"x": np.zeros([5, 2], np.float32)}))
    assert (caught.value.code, caught.value.message) == (
        "INVALID_ARGUMENT",
        "Task size 5 is larger than maximum input batch size 4",
    )
    answer = flagged.server.http.post("/v1/models/kinds:predict", json={"instances": [[1, 2]] * 5})
    assert (answer.status_code, answer.json()["error"]) == (400, "Task size 5 is larger than maximum input batch size 4")


def test_a_full_queue(flagged: Flagged) -> None:
    """One batch runs, one waits; what comes then is turned away at once."""
    asked = request("kinds", {"seconds": np.full([4], 0.7, np.float32)}, "slow")

    def ask(_: int) -> tuple[str, str]:
        try:
            flagged.server.call("Predict", asked)
        except Refusal as refusal:
            return refusal.code, refusal.message
        return "OK", ""

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(ask, range(6)))
    turned_away = [message for code, message in answers if code == "UNAVAILABLE"]
    assert {code for code, _ in answers} == {"OK", "UNAVAILABLE"}
    assert 2 <= answers.count(("OK", "")) <= 3
    assert all(each.startswith("The batch scheduling queue to which this task was submitted is full") for each in turned_away)


def test_one_port_for_both_skips_rest_and_sigterm_drains(tmp_path: Path, shop: Path) -> None:
    """The draining is the embedded server's own; its exit code then is 0."""
    server = Server({"model_name": "kinds", "model_base_path": shop / "kinds"}, tmp_path, one_port=True)
    try:
        assert server.states("kinds") == {1: "AVAILABLE"}
        with pytest.raises(httpx.HTTPError):
            server.http.get("/v1/models/kinds")
        if EMBEDDED:
            _drains(server)
    finally:
        server.stop()


def _drains(server: Server) -> None:
    answers: list[Any] = []
    asked = request("kinds", {"seconds": np.array([1.5], np.float32)}, "slow")
    caller = threading.Thread(target=lambda: answers.append(server.call("Predict", asked)))
    caller.start()
    time.sleep(0.4)
    server.process.send_signal(signal.SIGTERM)
    caller.join()
    assert [array(each.outputs["done"]).tolist() for each in answers] == [[1.5]]
    assert server.process.wait(timeout=30) == 0
