"""MLServer's runtime for the net; mlserver's model-settings.json names it."""

from __future__ import annotations

import os

from mlserver import MLModel  # type: ignore[import-not-found, unused-ignore]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found, unused-ignore]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found, unused-ignore]
from net import Net  # type: ignore[import-not-found, unused-ignore]


class NetModel(MLModel):
    """The V2 protocol's FP32 tensor in and out."""

    async def load(self) -> bool:
        """Reads the weights."""
        self._net = Net(os.environ["WEIGHTS"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One request."""
        scores = self._net(NumpyCodec.decode_input(payload.inputs[0]))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", scores)])
