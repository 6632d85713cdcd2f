"""Configurations: which are refused, what reloading replaces and waits for, and what labels stand for."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from shutil import rmtree
from typing import Any, cast

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.server.lifecycle import State
from serving.server.sources import Look, Source, look
from serving.server.status import Code, StatusError
from tests.serving.server.fake_loading import PATIENCE, config_of, model, publish, refused, rig, serving, states, until, written


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (
            'config { name: "m" base_path: "/m" model_platform: "tensorflow" } config { name: "m" base_path: "x" }',
            Code.INVALID_ARGUMENT,
            "Illegal to list model m multiple times in config list",
        ),
        (
            'config { name: "m" base_path: "x/y" model_platform: "tensorflow" }',
            Code.INVALID_ARGUMENT,
            "Expected model m to have an absolute path or URI; got base_path()=x/y",
        ),
        (
            'config { name: "m" base_path: "/m" model_platform: "caffe" }',
            Code.INVALID_ARGUMENT,
            "Model m requests unsupported platform caffe",
        ),
        (
            'config { name: "m" base_path: "/m" }',
            Code.INVALID_ARGUMENT,
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform.",
        ),
        (
            'config { name: "m" base_path: "/m" model_platform: "tensorflow" model_type: TENSORFLOW }',
            Code.INVALID_ARGUMENT,
            "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform.",
        ),
        (
            'config { name: "m" base_path: "/m" model_type: OTHER }',
            Code.INVALID_ARGUMENT,
            "ModelServerConfig::model_type choice 2 not supported.",
        ),
        (
            'config { name: "m" base_path: "gs://b/m" model_platform: "tensorflow" }',
            Code.UNIMPLEMENTED,
            "File system scheme 'gs' not implemented (file: 'gs://b/m'). Mount the bucket and give its folder.",
        ),
        (
            'config { name: "m" base_path: "/m" model_platform: "tensorflow" version_labels { key: "L" value: 9 } }',
            Code.FAILED_PRECONDITION,
            "Request to assign label to version 9 of model m, which is not currently available for inference",
        ),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, text: str, code: Code, said: str) -> None:
    with rig(model_config_file=written(tmp_path, text)) as it, refused(code, said):
        it.manager.start()
    publish(tmp_path / "base", 1)
    with rig(tmp_path / "base") as it:
        it.start()
        with refused(code, said):
            it.manager.reload(config_of(text))
        assert serving(it.manager, "m") == 1
        assert it.manager.config() == config_of(model("m", tmp_path / "base"))


def test_a_configuration_that_does_not_parse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        rig() as it,
        refused(Code.INVALID_ARGUMENT, "Both server_options.model_base_path and server_options.model_config_file are empty!"),
    ):
        it.manager.start()
    file = written(tmp_path, "confog {}")
    with rig(model_config_file=file) as it, refused(Code.INVALID_ARGUMENT, f"Invalid protobuf file: '{file}'"):
        it.manager.start()
    assert capsys.readouterr().err.startswith("Error parsing text-format tensorflow.serving.ModelServerConfig: 1:21 : ")
    Path(file).write_bytes(b"\xff")
    with rig(model_config_file=file) as it, refused(Code.INVALID_ARGUMENT, f"Invalid protobuf file: '{file}'"):
        it.manager.start()
    with rig(model_config_file=f"{file}x") as it, refused(Code.NOT_FOUND, f"{file}x; No such file or directory"):
        it.manager.start()


def test_an_old_style_configuration_is_taken(tmp_path: Path) -> None:
    publish(tmp_path / "a", 1)
    with rig(
        model_config_file=written(tmp_path, f'config {{ name: "a" base_path: "{tmp_path}/a" model_type: TENSORFLOW }}')
    ) as it:
        it.start()
        assert serving(it.manager, "a") == 1


def test_an_empty_configuration_waits_for_one(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("")
    publish(tmp_path / "a", 1)
    with rig(model_config_file=str(tmp_path / "config")) as it:
        it.start()
        assert it.manager.names() == []
        it.manager.reload(config_of(model("a", tmp_path / "a")), PATIENCE)
        assert serving(it.manager, "a") == 1
        only_lists = "Cannot transition to requested config. It is only legal to transition from one ModelConfigList to another."
        with refused(Code.FAILED_PRECONDITION, only_lists):
            it.manager.reload(model_server_config_pb2.ModelServerConfig())


def test_reload_replaces_the_whole_list_and_waits_for_what_is_new(tmp_path: Path) -> None:
    for name in "abc":
        publish(tmp_path / name, 1)
    file = written(tmp_path, model("a", tmp_path / "a"), model("b", tmp_path / "b"))
    with rig(model_config_file=file) as it:
        it.start()
        it.load.gate.clear()
        done = threading.Event()

        def reload() -> None:
            it.manager.reload(config_of(model("b", tmp_path / "b") + model("c", tmp_path / "c")), PATIENCE)
            done.set()

        thread = threading.Thread(target=reload)
        thread.start()
        until(lambda: it.load.running == {("c", 1)})
        assert not done.wait(0.05)
        assert it.manager.names() == ["b", "c"]
        it.load.gate.set()
        thread.join(PATIENCE)
        assert done.is_set()
        assert [serving(it.manager, name) for name in "bc"] == [1, 1]
        until(lambda: states(it.manager, "a") == {1: State.END})
        with refused(Code.NOT_FOUND, "Servable not found for request: Latest(a)"):
            serving(it.manager, "a")
        it.manager.reload(config_of(model("a", tmp_path / "a")), PATIENCE)  # a model that was there before is new again
        assert serving(it.manager, "a") == 1
        it.manager.reload(config_of(""))
        until(lambda: states(it.manager, "a") == {1: State.END})
        assert it.manager.ready()
        assert [len(config.model_config_list.config) for config in it.configs] == [2, 2, 1, 0]


def test_reload_says_which_new_model_failed_and_stays_in_force(tmp_path: Path) -> None:
    publish(tmp_path / "a", 1)
    publish(tmp_path / "b", 7, "bad")
    with rig(tmp_path / "a") as it:
        it.start()
        both = config_of(model("m", tmp_path / "a") + model("b", tmp_path / "b"))
        with pytest.raises(
            StatusError, match=r"^1 model\(s\) did not become available: \{\{\{name: b version: 7\} due to"
        ) as caught:
            it.manager.reload(both, PATIENCE)
        assert caught.value.code == Code.UNKNOWN
        assert it.manager.config() == both
        assert serving(it.manager, "m") == 1


def test_a_reload_that_waits_for_nothing_does_not_block_the_next(tmp_path: Path) -> None:
    """In TensorFlow Serving it does, until the server is restarted."""
    publish(tmp_path / "a", 1)
    with rig(tmp_path / "a") as it:
        it.start()
        wrong = config_of(model("m", tmp_path / "a") + model("b", tmp_path / "typo"))
        with refused(Code.DEADLINE_EXCEEDED, "Still waiting for these models to become available: b"):
            it.manager.reload(wrong, 0.05)
        errors: list[StatusError] = []

        def reload() -> None:
            try:
                it.manager.reload(config_of(model("m", tmp_path / "a") + model("c", tmp_path / "typo")), PATIENCE)
            except StatusError as error:
                errors.append(error)

        thread = threading.Thread(target=reload)
        thread.start()
        until(lambda: it.manager.names() == ["c", "m"])
        it.manager.reload(config_of(model("m", tmp_path / "a")), PATIENCE)
        thread.join(PATIENCE)
        assert [(error.code, error.message) for error in errors] == [
            (Code.ABORTED, "Another configuration took the place of this one, without c")
        ]


def test_the_policy_can_be_changed_by_reloading(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        publish(tmp_path, number)
    with rig(tmp_path) as it:
        it.start()
        for policy, expected in [
            ("specific { versions: 1 versions: 2 }", {3: State.END, 2: State.AVAILABLE, 1: State.AVAILABLE}),
            ("all {}", {3: State.AVAILABLE, 2: State.AVAILABLE, 1: State.AVAILABLE}),
            ("latest { num_versions: 2 }", {3: State.AVAILABLE, 2: State.AVAILABLE, 1: State.END}),
            ("specific { versions: 1 }", {3: State.END, 2: State.END, 1: State.AVAILABLE}),
            ("specific { versions: 9 }", {3: State.END, 2: State.END, 1: State.END}),
        ]:
            it.manager.reload(config_of(model("m", tmp_path, f"model_version_policy {{ {policy} }}")), PATIENCE)
            until(lambda expected=expected: states(it.manager, "m") == expected)  # type: ignore[misc]
            assert it.manager.ready() == (State.AVAILABLE in expected.values())


def labelled(base: Path, **labels: int) -> Any:
    entries = " ".join(f'version_labels {{ key: "{label}" value: {version} }}' for label, version in labels.items())
    return config_of(model("m", base, f"model_version_policy {{ all {{}} }} {entries}"))


def test_labels_stand_for_available_versions_only(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    with rig(tmp_path) as it:
        it.start()
        it.manager.reload(labelled(tmp_path, stable=1))
        assert serving(it.manager, "m", label="stable") == it.manager.label_version("m", "stable") == 1
        publish(tmp_path, 2)
        unavailable = "Request to assign label to version 3 of model m, which is not currently available for inference"
        with refused(Code.FAILED_PRECONDITION, unavailable):
            it.manager.reload(labelled(tmp_path, stable=3))
        assert serving(it.manager, "m", label="stable") == 1
        until(lambda: states(it.manager, "m").get(2) is State.AVAILABLE)
        it.manager.reload(labelled(tmp_path, stable=2, canary=2))
        assert [serving(it.manager, "m", label=label) for label in ("stable", "canary")] == [2, 2]
        rmtree(tmp_path / "2")
        until(lambda: states(it.manager, "m")[2] is State.END)
        with refused(Code.NOT_FOUND, "Servable not found for request: Specific(m, 2)"):
            serving(it.manager, "m", label="stable")
        it.manager.reload(config_of(model("m", tmp_path)))
        with refused(Code.INVALID_ARGUMENT, "Unrecognized servable version label: stable"):
            serving(it.manager, "m", label="stable")


def test_new_labels_may_come_before_their_version_when_told_so(tmp_path: Path) -> None:
    publish(tmp_path / "m", 1)
    file = tmp_path / "config"
    file.write_text(text_format.MessageToString(labelled(tmp_path / "m", stable=1)))
    with rig(model_config_file=str(file), allow_version_labels_for_unavailable_models=True) as it:
        it.start()
        assert serving(it.manager, "m", label="stable") == 1
        it.manager.reload(labelled(tmp_path / "m", stable=1, canary=2))
        with refused(Code.NOT_FOUND, "Servable not found for request: Specific(m, 2)"):
            serving(it.manager, "m", label="canary")
        unavailable = "Request to assign label to version 2 of model m, which is not currently available for inference"
        with refused(Code.FAILED_PRECONDITION, unavailable):
            it.manager.reload(labelled(tmp_path / "m", stable=2))  # one that is in use does not move to nowhere


def test_the_configuration_file_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "ab":
        publish(tmp_path / name, 1)
    file = written(tmp_path, model("a", tmp_path / "a"))
    with rig(model_config_file=file, model_config_file_poll_wait_seconds=cast(int, 0.01)) as it:
        it.start()
        written(tmp_path, model("b", tmp_path / "b"))
        until(lambda: "b" in it.manager.names() and it.manager.ready())
        assert it.manager.names() == ["b"]
        written(tmp_path, "broken {")
        until(lambda: f"{file} was not taken over: Invalid protobuf file: '{file}'" in caplog.text)
        time.sleep(0.1)
        assert caplog.text.count("was not taken over") == 1
        assert serving(it.manager, "b") == 1
        it.manager.reload(config_of(model("a", tmp_path / "a")), PATIENCE)
        assert serving(it.manager, "a") == 1
        written(tmp_path, model("b", tmp_path / "b"))  # the file goes before what came by RPC
        until(lambda: it.manager.names() == ["b"] and it.manager.ready())
        assert len(it.configs) == 4


def test_a_base_path_that_was_mended_is_loaded_from(tmp_path: Path) -> None:
    """Though the version has the number of the one that failed."""
    publish(tmp_path / "wrong", 1, "bad")
    publish(tmp_path / "right", 1)
    with rig(model_config_file=written(tmp_path, model("m", tmp_path / "wrong")), tolerate_failed_models=True) as it:
        it.start()
        assert states(it.manager, "m") == {1: State.END}
        it.manager.reload(config_of(model("m", tmp_path / "right")))
        until(it.manager.ready)


def test_a_look_that_a_reload_overtook_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "old", 1)
    publish(tmp_path / "new", 2)
    looking, go_on = threading.Event(), threading.Event()

    def slow(source: Source) -> Look:
        found = look(source)
        if source.base_path.endswith("old") and not go_on.is_set():
            looking.set()
            assert go_on.wait(PATIENCE)
        return found

    monkeypatch.setattr("serving.server.manager.look", slow)
    with rig(tmp_path / "old") as it:
        it.manager.start()
        assert looking.wait(PATIENCE)
        it.manager.reload(config_of(model("m", tmp_path / "new")))
        go_on.set()
        it.manager.wait_until_loaded(PATIENCE)
        assert set(it.history.states) == {("m", 2)}
