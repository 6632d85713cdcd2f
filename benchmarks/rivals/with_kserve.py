"""KServe's Python server on the net, V1 protocol. `python with_kserve.py --http_port=PORT`."""

from __future__ import annotations

import os
from typing import Any

import kserve  # type: ignore[import-not-found, unused-ignore]
from net import Net  # type: ignore[import-not-found, unused-ignore]


class NetModel(kserve.Model):
    """`{"instances": [...]}` → `{"predictions": [...]}`."""

    def __init__(self) -> None:
        super().__init__("net")
        self._net = Net(os.environ["WEIGHTS"])
        self.ready = True

    async def predict(self, payload: dict[str, Any], headers: Any = None, response_headers: Any = None) -> dict[str, Any]:
        """One request."""
        return {"predictions": self._net(payload["instances"]).tolist()}


if __name__ == "__main__":
    kserve.ModelServer(workers=1, enable_grpc=False).start([NetModel()])
