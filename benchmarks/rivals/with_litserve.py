"""LitServe on the net. `python with_litserve.py PORT`."""

from __future__ import annotations

import os
import sys
from typing import Any

import litserve  # type: ignore[import-not-found, unused-ignore]
from net import Net  # type: ignore[import-not-found, unused-ignore]


class NetApi(litserve.LitAPI):
    """`{"instances": [...]}` → `{"predictions": [...]}`."""

    def setup(self, device: str) -> None:
        """Reads the weights."""
        self._net = Net(os.environ["WEIGHTS"])

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request."""
        return {"predictions": self._net(request["instances"]).tolist()}


if __name__ == "__main__":
    litserve.LitServer(NetApi(), accelerator="cpu").run(port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False)
