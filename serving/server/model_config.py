"""ModelServerConfig: where it comes from, when it is refused, and what it says about sources and labels.

Checks, their order and their messages follow tensorflow_serving/model_servers/server_core.cc. The protos are imported inside the
functions, which keeps them out of `tfline --help`; they do not need TensorFlow.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from serving.server.options import ServerOptions
from serving.server.sources import All, Latest, Policy, Source, Specific, is_relative, local_folder
from serving.server.status import Code, StatusError, invalid, not_found

TENSORFLOW = "tensorflow"
"""The only platform (model_servers/model_platform_types.h)."""


def initial(options: ServerOptions) -> Any:
    """The configuration of the command line: the file, or one model.

    Side effects:
        Says on stderr, as the C++ parser does, where a text does not parse.

    Raises:
        StatusError: INVALID_ARGUMENT when there is neither, otherwise as `read`.
    """
    from tensorflow_serving.config import model_server_config_pb2

    if options.model_config_file:
        try:
            return read(options.model_config_file)
        except StatusError as error:
            if error.__cause__ is not None:
                print(f"Error parsing text-format tensorflow.serving.ModelServerConfig: {error.__cause__}", file=sys.stderr)
            raise
    if not options.model_base_path:
        raise invalid("Both server_options.model_base_path and server_options.model_config_file are empty!")
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(name=options.model_name, base_path=options.model_base_path, model_platform=TENSORFLOW)
    return config


def read(file: str) -> Any:
    """Reads a text ModelServerConfig.

    Raises:
        StatusError: NOT_FOUND without the file, INVALID_ARGUMENT when it does not parse; its cause says where.
    """
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    try:
        text = Path(file).read_bytes().decode()
        return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise invalid(f"Invalid protobuf file: '{file}'") from error
    except FileNotFoundError:
        raise not_found(f"{file}; No such file or directory") from None
    except OSError as error:
        raise StatusError(Code.UNKNOWN, f"{file}; {error.strerror}") from None


def check(old: Any | None, new: Any) -> bool:
    """Whether a configuration may follow on another, and has something to do.

    Args:
        old: What is in force; None at the start.
        new: What shall follow.

    Returns:
        False for an empty configuration at the start: nothing is loaded, and any may follow.

    Raises:
        StatusError: FAILED_PRECONDITION or INVALID_ARGUMENT, worded as TensorFlow Serving does.
    """
    kind = new.WhichOneof("config")
    if old is not None and kind != "model_config_list":
        raise StatusError(
            Code.FAILED_PRECONDITION,
            "Cannot transition to requested config. It is only legal to transition from one ModelConfigList to another.",
        )
    if kind is None:
        return False
    if kind == "custom_model_config":
        raise StatusError(Code.UNIMPLEMENTED, "ModelServer does not yet support custom model config.")
    seen: set[str] = set()
    for model in new.model_config_list.config:
        if model.name in seen:
            raise invalid(f"Illegal to list model {model.name} multiple times in config list")
        seen.add(model.name)
    for model in new.model_config_list.config:
        if is_relative(model.base_path):
            raise invalid(f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}")
    for model in new.model_config_list.config:
        _check_platform(model)
        local_folder(model.base_path)
    return True


def sources(config: Any) -> dict[str, Source]:
    """Where to look for the versions of each model of a checked configuration."""
    return {
        model.name: Source(model.name, model.base_path, _policy(model.model_version_policy))
        for model in config.model_config_list.config
    }


def labels(
    config: Any,
    current: Mapping[str, Mapping[str, int]],
    available: Callable[[str, int], bool],
    *,
    allow_unavailable: bool,
) -> dict[str, dict[str, int]]:
    """The labels of a configuration, by model, then label.

    Args:
        config: Checked already.
        current: The labels in force: with `allow_unavailable`, one that already stands for another version can only be moved to a
            version that is available, so that no client that uses it is left without an answer.
        available: Whether a version of a model is available now.
        allow_unavailable: --allow_version_labels_for_unavailable_models.

    Raises:
        StatusError: FAILED_PRECONDITION; no label may change then.
    """
    found: dict[str, dict[str, int]] = {}
    for model in config.model_config_list.config:
        for label, version in model.version_labels.items():
            moves = current.get(model.name, {}).get(label, version) != version
            if not available(model.name, version) and (moves or not allow_unavailable):
                raise StatusError(
                    Code.FAILED_PRECONDITION,
                    f"Request to assign label to version {version} of model {model.name}, "
                    "which is not currently available for inference",
                )
            found.setdefault(model.name, {})[label] = version
    return found


def _check_platform(model: Any) -> None:
    platform = model.model_platform
    if model.model_type:  # the enum ModelType: 0 is unspecified, 1 TENSORFLOW
        if platform:
            raise invalid(
                "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."
            )
        if model.model_type != 1:
            raise invalid(f"ModelServerConfig::model_type choice {model.model_type} not supported.")
        platform = TENSORFLOW
    if not platform:
        raise invalid("Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform.")
    if platform != TENSORFLOW:
        raise invalid(f"Model {model.name} requests unsupported platform {platform}")


def _policy(proto: Any) -> Policy:
    match proto.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            return Specific(frozenset(proto.specific.versions))
        case _:
            return Latest(proto.latest.num_versions)
