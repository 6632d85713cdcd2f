"""The words in which versions are spoken of: states, statuses, and the interface that the predictor has to the manager."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from serving.server.servable import Servable
from serving.server.status import Code


class State(IntEnum):
    """As tensorflow_serving/apis/get_model_status.proto numbers them."""

    UNKNOWN = 0
    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class VersionStatus:
    """Where a version is in its life; code and message say why it ended, when it ended badly."""

    version: int
    state: State
    code: Code = Code.OK
    message: str = ""


@dataclass(frozen=True)
class Loaded:
    """A version that is held for a request: it is not unloaded before the request lets go."""

    name: str
    version: int
    servable: Servable


class Models(Protocol):
    """What the predictor and the protocols may ask of the manager; every method may be called from many threads."""

    def acquire(self, name: str, version: int | None = None, label: str | None = None) -> AbstractContextManager[Loaded]:
        """Holds a version while a request runs.

        Args:
            name: The model.
            version: None for the newest that is available.
            label: Instead of a version.

        Raises:
            StatusError: NOT_FOUND `Servable not found for request: Latest(NAME)` or `Specific(NAME, 99)`; INVALID_ARGUMENT
                `Unrecognized servable version label: L`.
        """

    def statuses(self, name: str, version: int | None = None) -> Sequence[VersionStatus]:
        """Of a model's versions, descending, or of one.

        Raises:
            StatusError: NOT_FOUND `Could not find any versions of model M` or `Could not find version 9 of model M`.
        """

    def label_version(self, name: str, label: str) -> int:
        """The version that a label stands for; StatusError as `acquire`."""

    def reload(self, config: Any, timeout: float | None = None) -> None:
        """Replaces the whole configuration (ModelServerConfig); returns when new models are AVAILABLE, or raises StatusError.

        With a timeout, in seconds, that is DEADLINE_EXCEEDED when it takes longer; the configuration stays in force.
        """

    def config(self) -> Any:
        """The ModelServerConfig as it is now, labels included."""

    def names(self) -> Sequence[str]:
        """The configured models, sorted."""

    def ready(self) -> bool:
        """Whether every configured model has an AVAILABLE version."""
