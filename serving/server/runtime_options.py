"""What the runtimes take from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format

from serving.server.options import ServerOptions
from serving.server.status import invalid
from serving.server.text_protos import read_text


@dataclass(frozen=True)
class RuntimeOptions:
    """What the runtimes take from the command line.

    Attributes:
        intra_op: Threads within an operation; 0 is TensorFlow's choice.
        inter_op: Operations at a time; 0 is TensorFlow's choice.
        session_config: Text ConfigProto; `intra_op` and `inter_op`, when set, go before it.
        tflite_interpreters: How many requests of a TFLite model are computed at a time.
    """

    intra_op: int = 0
    inter_op: int = 0
    session_config: str = ""
    tflite_interpreters: int = 1

    @classmethod
    def of(cls, options: ServerOptions) -> RuntimeOptions:
        """Takes them from the flags, with the precedence of model_servers/server.cc; reads --tensorflow_session_config_file.

        Raises:
            StatusError: INVALID_ARGUMENT: all three flags for parallelism are set; NOT_FOUND: the file cannot be read.
        """
        session, intra, inter = (
            options.tensorflow_session_parallelism,
            options.tensorflow_intra_op_parallelism,
            options.tensorflow_inter_op_parallelism,
        )
        if min(session, intra, inter) > 0:
            raise invalid(
                "Either configure server_options.tensorflow_session_parallelism or "
                "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) separately. "
                "You cannot configure all."
            )
        if intra <= 0 and inter <= 0:
            intra = inter = session
        text = ""
        if options.tensorflow_session_config_file:
            text = read_text(options.tensorflow_session_config_file)
        pools, each = options.num_tflite_pools, options.num_tflite_interpreters_per_pool
        return cls(max(intra, 0), max(inter, 0), text, max(pools, 1) * max(each, 1))


def session_config(options: RuntimeOptions) -> Any:
    """The ConfigProto.

    Raises:
        StatusError: INVALID_ARGUMENT: `session_config` does not parse; the message has line, column and reason.
    """
    from tensorflow.core.protobuf.config_pb2 import ConfigProto

    config = ConfigProto()
    try:
        text_format.Parse(options.session_config, config)
    except text_format.ParseError as error:
        raise invalid(f"Error parsing text-format tensorflow.ConfigProto: {error}") from None
    if options.intra_op:
        config.intra_op_parallelism_threads = options.intra_op
    if options.inter_op:
        config.inter_op_parallelism_threads = options.inter_op
    return config
