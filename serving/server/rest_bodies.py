"""Request bodies that come compressed."""

from __future__ import annotations

import struct
import zlib

MAX_UNCOMPRESSED = 100_000_000
"""Bytes; ZLib::kMaxUncompressedBytes in tensorflow_serving/util/net_http/compression/gzip_zlib.h."""

_GZIP = 16 + zlib.MAX_WBITS


def gunzip(body: bytes) -> bytes:
    """Decompresses a gzip body.

    What is too large, broken or not gzip becomes an empty body, as in TensorFlow Serving (evhttp_request.cc); the request then
    fails with `The document is empty`. A body's last four bytes say how long it will be: one that says too much is not even
    begun, and one that says too little is given up there, so a bomb takes no memory.
    """
    if len(body) < 18:
        return b""
    (size,) = struct.unpack("<I", body[-4:])
    if size > MAX_UNCOMPRESSED:
        return b""
    decompressor = zlib.decompressobj(_GZIP)
    try:
        text = decompressor.decompress(body, size + 1)
    except zlib.error:
        return b""
    return text if len(text) == size and decompressor.eof else b""
