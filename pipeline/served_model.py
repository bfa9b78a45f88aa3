"""The registered form of a model, as MLflow loads it: this file, weights in safetensors, no pickle.

MLflow runs this file to build the model ("models from code"): it must import nothing but what is stored with the
model (encnet) or named in its requirements.
"""

from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.pyfunc.model import PythonModel

import encnet


class ServedEncNet(PythonModel):
    """Images (B, H, W, 3) uint8 RGB -> class ids (B, H, W) uint8."""

    # MLflow has no type hint for an image, and would warn at every load that there is none.
    _skip_type_hint_validation = True

    def load_context(self, context: Any) -> None:
        self.model, self.config = encnet.load_model(context.artifacts["weights"])
        self.model.eval()

    def predict(self, context: Any, model_input, params=None):  # type: ignore[no-untyped-def]
        """Class ids of the most probable class of each pixel. Any image size of at least 32 x 32."""
        images = torch.from_numpy(np.ascontiguousarray(model_input, dtype=np.uint8))
        with torch.inference_mode():
            return encnet.predict_classes(self.model, encnet.normalize(images)).to(torch.uint8).numpy()


mlflow.models.set_model(ServedEncNet())
