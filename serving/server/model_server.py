"""A server in one object: the parts put together, started in the right order and ended in the right order.

    made (files of the flags read) → start: models loaded → ports open → answering → drain → stop → unload

After tensorflow_serving/model_servers/server.cc (BuildAndStart). Only the server's process imports this module.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path

from serving.server.grpc_server import GrpcServer
from serving.server.lifecycle import State
from serving.server.loading import Loader
from serving.server.manager import Manager
from serving.server.metrics import Metrics, loaded_versions
from serving.server.options import ServerOptions
from serving.server.predictor import Predictor
from serving.server.request_log import RequestLog
from serving.server.rest_app import RestApp
from serving.server.rest_server import RestServer, server_context
from serving.server.status import Code, StatusError
from serving.server.text_protos import MonitoringConfig, SSLConfig, monitoring_config, read_text, ssl_config
from serving.server.tls import server_credentials

_log = logging.getLogger(__name__)


class ModelServer:
    """One server. `start` may take as long as models load; `drain` may come from another thread, at any time."""

    def __init__(self, options: ServerOptions) -> None:
        """Reads the configuration files; opens no port and loads no model.

        Raises:
            StatusError: A file cannot be read or does not parse, or flags contradict each other.
        """
        self._options = options
        self._ssl = _ssl(options)
        self._monitoring = _monitoring(options)
        self._metrics = Metrics() if self._monitoring.enable else None
        self._request_log = _request_log(options)
        self._loader = Loader(options, self._metrics)
        self._manager = Manager(options, self._loader, config_observers=[log.configure for log in self._logs()])
        observers = [self._metrics] if self._metrics else []
        self._predictor = Predictor(self._manager, options, observers, self._request_log)
        self._grpc: GrpcServer | None = None
        self._rest: tuple[RestApp, RestServer] | None = None
        self._opening = threading.Lock()
        self._draining = False
        if self._metrics is not None:
            self._metrics.watch(":tfline:serving:loaded_version", ("model_name", "version"), loaded_versions(self._versions))
            self._metrics.watch(":tfline:serving:request_log_dropped", (), self._dropped)

    def start(self) -> None:
        """Loads the models, then opens the ports; returns when both are done.

        Raises:
            StatusError: A model cannot be loaded (UNKNOWN), an address cannot be had (INVALID_ARGUMENT), or the server is being
                drained (CANCELLED).
        """
        for log in self._logs():
            log.start()
        self._manager.start()
        self._manager.wait_until_loaded()
        with self._opening:
            if self._draining:
                raise StatusError(Code.CANCELLED, "The server is shutting down.")
            self._open_grpc()
            self._open_rest()

    @property
    def grpc_address(self) -> str:
        """Where gRPC listens on TCP; "" before `start` or without a port."""
        return self._grpc.address if self._grpc else ""

    def drain(self, seconds: float) -> bool:
        """Refuses new requests, turns health and readiness to no, and waits so long for the requests inside.

        Returns:
            Whether all of gRPC's finished; REST's are cut off when their time is over.
        """
        with self._opening:
            self._draining = True
        rest = None
        if self._rest is not None:
            rest = threading.Thread(target=self._rest[1].stop, args=(seconds,), name="drain-rest")
            rest.start()
        finished = self._grpc is None or self._grpc.drain(seconds)
        if rest is not None:
            rest.join()
        return finished

    def stop(self) -> None:
        """Closes the ports, whatever still runs, and finishes the request logs."""
        if self._rest is not None:
            self._rest[1].stop(0)
            self._rest[0].close()
        if self._grpc is not None:
            self._grpc.stop()
        for log in self._logs():
            log.close()

    def unload(self, seconds: float) -> bool:
        """Unloads the models; whether it was done in this time."""
        if not self._manager.close(seconds):
            return False
        self._loader.close()
        return True

    def _open_grpc(self) -> None:
        options = self._options
        self._grpc = GrpcServer(self._predictor, options, server_credentials(self._ssl) if self._ssl else None)
        self._grpc.start()
        if options.enable_profiler:
            _log.info("Profiler service is enabled")
        if self._grpc.address:
            _log.info("Running gRPC ModelServer at %s ...", self._grpc.address)
        if options.grpc_socket_path:
            _log.info("Running gRPC ModelServer at UNIX socket %s ...", options.grpc_socket_path)

    def _open_rest(self) -> None:
        """As the real server, goes on without REST when it cannot be had."""
        options = self._options
        if not options.rest_api_port:
            return
        if options.rest_api_port == options.port:
            _log.error(
                "server_options.http_port cannot be same as grpc_port. Please use a different port for HTTP/REST API. "
                "Skipped exporting HTTP/REST API."
            )
            return
        address = f"{options.bind_address}:{options.rest_api_port}"
        tls = server_context(self._ssl) if self._ssl and options.rest_ssl else None
        app = RestApp(self._predictor, options, self._metrics, self._monitoring.path if self._metrics else None)
        try:
            server = RestServer(app, options.bind_address, options.rest_api_port, tls, reuse_port=options.processes > 1)
            server.start()
        except StatusError as error:
            app.close()
            _log.error("Failed to start HTTP Server at %s: %s", address, error.message)
            return
        self._rest = app, server
        _log.info("Exporting HTTP/REST API at:%s ...", address)

    def _logs(self) -> list[RequestLog]:
        return [self._request_log] if self._request_log else []

    def _dropped(self) -> list[tuple[tuple[str, ...], float]]:
        return [((), float(log.dropped)) for log in self._logs()]

    def _versions(self) -> Mapping[str, list[int]]:
        found = {}
        for name in self._manager.names():
            try:
                statuses = self._manager.statuses(name)
            except StatusError:
                continue
            found[name] = [status.version for status in statuses if status.state == State.AVAILABLE]
        return found


def _ssl(options: ServerOptions) -> SSLConfig | None:
    file = options.ssl_config_file
    return ssl_config(read_text(file), file) if file else None


def _monitoring(options: ServerOptions) -> MonitoringConfig:
    file = options.monitoring_config_file
    return monitoring_config(read_text(file), file) if file else MonitoringConfig()


def _request_log(options: ServerOptions) -> RequestLog | None:
    if not options.request_log_dir:
        return None
    return RequestLog(Path(options.request_log_dir), options.request_log_sampling_rate, options.request_log_rotate_mb << 20)
