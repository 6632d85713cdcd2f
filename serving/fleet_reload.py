"""The configuration that a fleet's servers get: models, versions and labels, all of them, as a reload replaces everything."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from serving.client.messages import message
from serving.fleet_config import Instance
from serving.fleet_state import State, read_state, states
from serving.manifest import write_file

PLATFORM = "tensorflow"


def configuration(store: Path, model: str, instance: Instance, versions: Collection[int], labels: Mapping[str, int]) -> Any:
    """The ModelServerConfig of one server.

    A real TensorFlow Serving does not tell its configuration. So it is made anew from what tfline set last: the states of all
    models of the store whose fleet has this address, and the `other_models` of the instance.

    Args:
        store: Root of the store.
        model: The model that is being changed.
        instance: The server.
        versions: Versions of the model that it shall load; its newest when there are none.
        labels: Versions by label; a server refuses one whose version it has not loaded.
    """
    config = message("tensorflow.serving.ModelServerConfig")()
    for name, path in instance.other_models.items():
        _add(config, name, path)
    for name, state in states(store).items():
        there = [each for each in (state.fleet.instances if state.fleet else ()) if each.address == instance.address]
        if there and name != model and name not in instance.other_models:
            loaded = state.wanted() if state.fleet and state.fleet.labels else ()
            _add(config, name, _path(there[0]), loaded, state.numbers() if loaded else {})
    _add(config, model, _path(instance), versions, labels)
    return config


def unknown_models(instance: Instance, config: Any, seconds: float = 5.0) -> str:
    """What a reload would take away, or cannot be found out; "" when nothing, or when the instance has no `rest` to ask."""
    if not instance.rest:
        return ""
    url = f"{instance.rest.rstrip('/')}/v1/config"
    try:
        # Without a proxy: it is a server of ours, on a network of ours.
        secure = urllib.request.HTTPSHandler(context=instance.tls.context()) if instance.tls else urllib.request.HTTPSHandler()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), secure)
        with opener.open(url, timeout=seconds) as answer:
            found = json.load(answer)
    except (OSError, ValueError) as error:
        return f"{url} does not tell its configuration: {error}"
    models = _key(_key(found, "modelConfigList", "model_config_list"), "config", "config") or []
    gone = sorted({str(each.get("name")) for each in models} - {each.name for each in config.model_config_list.config})
    return f"it also serves {', '.join(gone)}, which a reload would take away; say so in other_models" if gone else ""


def write_serving_config(store: Path, model: str, state: State) -> None:
    """Writes the configuration for `tfline serve MODEL`, with the labels, or removes it where there is a fleet or no label.

    Every version is loaded, so that a label can be moved to any at once; a running server takes the file over by itself.
    """
    path = serving_config(store, model)
    if state.fleet is not None or not state.labels:
        path.unlink(missing_ok=True)
        return
    config = message("tensorflow.serving.ModelServerConfig")()
    _add(config, model, str((store / model).resolve()), (), state.numbers())
    config.model_config_list.config[0].model_version_policy.all.SetInParent()
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    write_file(part, text_format.MessageToString(config))
    part.replace(path)


def serving_flags(store: Path, model: str) -> list[str]:
    """Flags with which a server serves a model of a store: its newest version, or all of them with their labels."""
    folder, path = (store / model).resolve(), serving_config(store, model)
    if not path.exists():
        return [f"--model_name={model}", f"--model_base_path={folder}"]
    if f'"{folder}"' not in path.read_text(encoding="utf-8"):  # the store was moved
        write_serving_config(store, model, read_state(store, model))
    return [
        f"--model_config_file={path.resolve()}",
        "--model_config_file_poll_wait_seconds=1",
        "--allow_version_labels_for_unavailable_models",
    ]


def serving_config(store: Path, model: str) -> Path:
    """Where that file is, if it is."""
    return store / model / ".models.config"


def _path(instance: Instance) -> str:
    return instance.server_path or instance.base_path


def _add(config: Any, name: str, path: str, versions: Collection[int] = (), labels: Mapping[str, int] | None = None) -> None:
    added = config.model_config_list.config.add(name=name, base_path=path, model_platform=PLATFORM)
    added.model_version_policy.specific.versions.extend(sorted(versions))
    if not versions:
        added.ClearField("model_version_policy")
    for label, version in (labels or {}).items():
        added.version_labels[label] = version


def _key(found: Any, *names: str) -> Any:
    return next((found[name] for name in names if isinstance(found, dict) and name in found), None)
