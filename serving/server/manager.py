"""Which models there are: configuration, looking for versions, labels, and waiting until what was asked for answers.

It is what tensorflow_serving/model_servers/server_core.cc is there. One thread looks at the file system and at the configuration
file and begins attempts whose time has come; loading and unloading have threads of their own (aspired.py), and requests need none
of them (holds.py).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from serving.server import model_config
from serving.server.aspired import AspiredVersions, Load, Observer
from serving.server.holds import Hold
from serving.server.lifecycle import Loaded, VersionStatus
from serving.server.options import ServerOptions
from serving.server.sources import Look, Source, look
from serving.server.status import Code, StatusError, not_found

_LOG = logging.getLogger(__name__)

ConfigObserver = Callable[[Any], None]
"""Is given every ModelServerConfig that comes into force, as `Observer` with the lock held; it must not change it."""


class Manager:
    """The models of a server; implements `lifecycle.Models`.

    `start`, then `wait_until_loaded`, then requests, at the end `close`, after the protocols have stopped.

    Args:
        options: Those of models, loading, labels and polling are read.
        load: Loads and warms up a version; see `Load`.
        observers: Are told of states; see `Observer`.
        config_observers: Are told of configurations.
    """

    def __init__(
        self,
        options: ServerOptions,
        load: Load,
        *,
        observers: Sequence[Observer] = (),
        config_observers: Sequence[ConfigObserver] = (),
    ) -> None:
        self._options = options
        self._versions = AspiredVersions(
            load,
            load_threads=options.num_load_threads,
            unload_threads=options.num_unload_threads,
            max_retries=options.max_num_load_retries,
            retry_seconds=options.load_retry_interval_micros / 1e6,
            observers=observers,
        )
        self._config_observers = config_observers
        self._table = self._versions.table
        self._changed = self._versions.changed
        self._config: Any = None
        self._sources: dict[str, Source] = {}
        self._to_look: set[str] = set()
        self._looked: set[str] = set()
        self._said: dict[str | None, str] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="manager", daemon=True)

    def start(self) -> None:
        """Takes the configuration of the command line and begins to load; returns at once.

        Raises:
            StatusError: The configuration is refused; see `model_config`.
        """
        self._apply(model_config.initial(self._options))
        self._thread.start()

    def wait_until_loaded(self, timeout: float | None = None) -> None:
        """Waits until every configured model has a version that is available, or has failed for good.

        A model whose base path is missing or empty is waited for as well, as in TensorFlow Serving; with
        --tolerate_failed_models it is not.

        Raises:
            StatusError: UNKNOWN naming the models that failed, unless --tolerate_failed_models; DEADLINE_EXCEEDED after `timeout`
                seconds; CANCELLED when the server is closed meanwhile.
        """
        tolerate = self._options.tolerate_failed_models
        self._wait(lambda: self._sources, timeout, tolerate=tolerate)
        if not tolerate:
            self._raise_failed(self._sources)

    def acquire(self, name: str, version: int | None = None, label: str | None = None) -> AbstractContextManager[Loaded]:
        """As `Models.acquire`; what it raises, it raises when the context is entered."""
        return Hold(self._table, name, version, label)

    def statuses(self, name: str, version: int | None = None) -> Sequence[VersionStatus]:
        """As `Models.statuses`; versions that ended stay in it."""
        found = self._versions.statuses(name)
        if version is not None:
            found = [status for status in found if status.version == version]
        if not found:
            what = "any versions" if version is None else f"version {version}"
            raise not_found(f"Could not find {what} of model {name}")
        return found

    def label_version(self, name: str, label: str) -> int:
        """As `Models.label_version`."""
        return self._table.label_version(name, label)

    def reload(self, config: Any, timeout: float | None = None) -> None:
        """As `Models.reload`. A configuration that is refused changes nothing; one whose new models fail stays in force.

        Args:
            config: ModelServerConfig.
            timeout: Seconds to wait for models that were not there before.

        Raises:
            StatusError: See `model_config.check` and `model_config.labels`; UNKNOWN when a new model cannot be loaded; ABORTED
                when another configuration took it out again; DEADLINE_EXCEEDED, CANCELLED; or what a config observer raises.
        """
        new = self._apply(config)
        self._wait(lambda: new, timeout, tolerate=False)
        self._raise_failed(new)
        gone = sorted(new - self._sources.keys())
        if gone:
            raise StatusError(Code.ABORTED, f"Another configuration took the place of this one, without {', '.join(gone)}")

    def config(self) -> Any:
        """As `Models.config`: a copy, which is the caller's."""
        from tensorflow_serving.config import model_server_config_pb2

        config = model_server_config_pb2.ModelServerConfig()
        if self._config is not None:
            config.CopyFrom(self._config)
        return config

    def names(self) -> Sequence[str]:
        """As `Models.names`."""
        return sorted(self._sources)

    def ready(self) -> bool:
        """As `Models.ready`: also with an empty list of models, but neither before the first configuration nor while closing."""
        rows = self._table.rows
        return not self._closing and self._config is not None and all(name in rows for name in self._sources)

    def close(self, drain_seconds: float = 0.0) -> bool:
        """Unloads everything, each version when its last request is done.

        Returns:
            Whether that happened within `drain_seconds`. If not, end the process with os._exit: a load cannot be broken off, and
            Python would wait for its thread.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        return self._versions.close(drain_seconds)

    def _apply(self, config: Any) -> set[str]:
        """Puts a configuration into force; returns the models that were not there before."""
        with self._changed:
            if not model_config.check(self._config, config):
                _LOG.info("Taking no action for empty config.")
                return set()
            labels = model_config.labels(
                config,
                self._table.labels,
                self._versions.available,
                allow_unavailable=self._options.allow_version_labels_for_unavailable_models,
            )
            old, fresh = self._sources, model_config.sources(config)
            self._config = type(config)()
            self._config.CopyFrom(config)
            self._table.labels = labels
            self._sources = fresh
            for name in old.keys() - fresh.keys():
                self._versions.aspire(name, {})
                self._said.pop(name, None)
            if self._options.file_system_poll_wait_seconds >= 0:
                self._to_look |= {name for name, source in fresh.items() if old.get(name) != source}
            self._changed.notify_all()
            for observer in self._config_observers:
                observer(self._config)
            return set(fresh.keys() - old.keys())

    def _wait(self, names: Callable[[], Iterable[str]], timeout: float | None, *, tolerate: bool) -> None:
        """Waits until none of these models is still to come; models that are not configured any more are not waited for."""

        def missing() -> list[str]:
            return [name for name in names() if not self._settled(name, tolerate=tolerate)]

        with self._changed:
            if not self._changed.wait_for(lambda: self._closing or not missing(), timeout):
                what = ", ".join(sorted(missing()))
                raise StatusError(Code.DEADLINE_EXCEEDED, f"Still waiting for these models to become available: {what}")
            if self._closing:
                raise StatusError(Code.CANCELLED, "The server is shutting down.")

    def _settled(self, name: str, *, tolerate: bool) -> bool:
        given_up = tolerate and (self._versions.failing(name) or (name in self._looked and not self._versions.busy(name)))
        return name not in self._sources or name in self._table.rows or bool(self._versions.failed(name)) or given_up

    def _raise_failed(self, names: Iterable[str]) -> None:
        """Raises what TensorFlow Serving says when models did not become available, if there are such."""
        with self._changed:
            failed = [self._versions.failed(name)[:1] for name in sorted(names) if name not in self._table.rows]
        said = [
            f"{{{version} due to error: {version.failure.code.name}: {version.failure.message}}}, "
            for versions in failed
            for version in versions
            if version.failure
        ]
        if said:
            raise StatusError(Code.UNKNOWN, f"{len(said)} model(s) did not become available: {{{''.join(said)}}}")

    def _run(self) -> None:
        """The manager's thread."""
        look_every = self._options.file_system_poll_wait_seconds
        config_every = self._options.model_config_file_poll_wait_seconds if self._options.model_config_file else 0
        next_look = time.monotonic()
        next_config = next_look + config_every
        while not self._closing:
            now = time.monotonic()
            if config_every > 0 and next_config <= now:
                self._read_config_again()
                next_config = now + config_every
            everything = look_every > 0 and next_look <= now
            self._look(everything=everything)
            if everything:
                next_look = time.monotonic() + look_every
            times = [
                when - time.monotonic() for when, every in ((next_look, look_every), (next_config, config_every)) if every > 0
            ]
            with self._changed:
                retry = self._versions.retry_due()
                if not self._closing and not self._to_look:
                    self._changed.wait(max(0.0, min([*times, retry] if retry is not None else times, default=3600.0)))

    def _look(self, *, everything: bool) -> None:
        """Looks at the base paths, without the lock, as storage may be slow."""
        with self._changed:
            names = set(self._sources) if everything else self._to_look & self._sources.keys()
            self._to_look = set()
            sources = [self._sources[name] for name in sorted(names)]
        for source in sources:
            found = None
            try:
                found = look(source)
            except StatusError as error:
                self._say(source.name, logging.ERROR, f"Filesystem access error: {error.message}")
            except Exception:
                _LOG.exception("Looking for versions of %s failed.", source.name)
            with self._changed:
                if self._sources.get(source.name) == source:  # no other configuration came meanwhile
                    self._looked.add(source.name)
                    self._changed.notify_all()
                    if found is not None:
                        self._take(source, found)

    def _take(self, source: Source, found: Look) -> None:
        """Acts on what a look found; one that failed says nothing about versions, so what is loaded stays."""
        if found.empty and self._options.keep_loaded_when_storage_vanishes and self._versions.busy(source.name):
            self._say(source.name, logging.ERROR, f"{source.base_path} has no versions any more; what is loaded stays.")
            return
        self._say(source.name, logging.WARNING, "\n".join(found.remarks))
        self._versions.aspire(source.name, found.wanted)

    def _read_config_again(self) -> None:
        try:
            config = model_config.read(self._options.model_config_file)
            if config != self._config:
                self._apply(config)
        except StatusError as error:
            self._say(None, logging.ERROR, f"{self._options.model_config_file} was not taken over: {error.message}")
        except Exception:
            _LOG.exception("Reading %s again failed.", self._options.model_config_file)
        else:
            self._say(None, logging.INFO, "")

    def _say(self, about: str | None, level: int, message: str) -> None:
        """Logs what a look found, once, not at every look."""
        if self._said.get(about, "") != message and message:
            _LOG.log(level, "%s", message)
        self._said[about] = message
