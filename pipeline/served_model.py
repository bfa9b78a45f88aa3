"""The registered form of a model, as MLflow loads it: this file, weights in safetensors, no pickle.

MLflow runs this file to build the model ("models from code"): it must import nothing but what is stored with the
model (encnet) or named in its requirements.

In: images of one size as an array (N, H, W, 3) uint8, RGB; or a 1-D object array or list of N images of any sizes, each
of them (H, W, 3), or the bytes of a JPEG or PNG file, or those bytes in base64, as JSON has them over HTTP:

    curl localhost:5000/invocations -H 'Content-Type: application/json' \
        -d '{"inputs": ["'$(base64 -w0 street.jpg)'"], "params": {"probabilities": false}}'

Out: class ids (N, H, W), a list of (H, W) where sizes differ. With the parameter `probabilities` a dict of "classes"
and "probabilities", (N, C, H, W) float32.
"""

import base64
import binascii
import io
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel
from PIL import Image, UnidentifiedImageError

import encnet

PROBABILITIES = "probabilities"


class ServedEncNet(PythonModel):
    """Images -> class ids, and probabilities where they are asked for."""

    # MLflow has no type hint for an image, and would warn at every load that there is none.
    _skip_type_hint_validation = True

    def load_context(self, context: Any) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.config = encnet.load_model(context.artifacts["weights"])
        self.model.to(self.device).eval()

    def predict(self, context: Any, model_input, params=None):  # type: ignore[no-untyped-def]
        """The classes of images, as the module's text says. Raises MlflowException for what is no image."""
        wanted = bool((params or {}).get(PROBABILITIES))
        images = [_read_image(number, item) for number, item in enumerate(_items(model_input))]
        if len({image.shape for image in images}) == 1:
            found = self._classify(np.stack(images), wanted)
        else:
            each = [self._classify(image[None], wanted) for image in images]
            found = {name: [maps[name][0] for maps in each] for name in (each[0] if each else {"classes": ()})}
        return found if wanted else found["classes"]

    def _classify(self, images: np.ndarray, wanted: bool) -> dict[str, Any]:
        """(B, H, W, 3) uint8 -> class ids (B, H, W), and probabilities (B, C, H, W) if they are wanted."""
        pixels = encnet.normalize(torch.from_numpy(images).to(self.device))
        with torch.inference_mode():
            if not wanted:
                return {"classes": encnet.predict_classes(self.model, pixels).cpu().numpy()}
            shares = encnet.predict(self.model, pixels).cpu().numpy()
        classes = shares.argmax(1).astype(np.uint8 if shares.shape[1] <= 256 else np.int32)
        return {"classes": classes, PROBABILITIES: np.ascontiguousarray(shares)}


def _items(model_input: Any) -> list[Any]:
    """The images one by one, of an array, a list, or the only column of a table."""
    if hasattr(model_input, "iloc"):
        if model_input.shape[1] != 1:
            raise _refusal(f"a table of {model_input.shape[1]} columns: give one column of images")
        return list(model_input.iloc[:, 0])
    if isinstance(model_input, (str, bytes, bytearray)):
        return [model_input]
    if isinstance(model_input, np.ndarray) and model_input.ndim in (0, 3):
        return [model_input if model_input.ndim else model_input.item()]
    return list(model_input)


def _read_image(number: int, item: Any) -> np.ndarray:
    """One image (H, W, 3) uint8 RGB. A file's orientation tag is left alone, as in training."""
    if isinstance(item, str):
        try:
            item = base64.b64decode("".join(item.split()), validate=True)
        except (binascii.Error, ValueError):
            raise _refusal(f"image {number}: a text that is no base64: encode a JPEG or PNG file in it") from None
    if isinstance(item, (bytes, bytearray)):
        try:
            with Image.open(io.BytesIO(item), formats=("JPEG", "PNG")) as file:
                return np.asarray(file.convert("RGB"))
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise _refusal(f"image {number}: {len(item)} bytes that are no whole JPEG or PNG file ({error})") from None
    try:
        # JSON's numbers come as objects, which may be of any kind.
        pixels = np.array(item.tolist() if isinstance(item, np.ndarray) and item.dtype.hasobject else item)
        if pixels.dtype.kind not in "ui":
            raise TypeError(f"{pixels.dtype} pixels")
        if pixels.dtype != np.uint8 and pixels.size and not 0 <= pixels.min() <= pixels.max() <= 255:
            raise ValueError("pixels outside 0 to 255")
        pixels = pixels.astype(np.uint8)
    except (TypeError, ValueError) as error:
        raise _refusal(f"image {number}: {error}: give (height, width, 3) of whole numbers from 0 to 255") from None
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise _refusal(f"image {number}: shape {pixels.shape}: give (height, width, 3), RGB")
    return np.ascontiguousarray(pixels)


def _refusal(message: str) -> MlflowException:
    """What MLflow's server answers as 400, with these words."""
    return MlflowException.invalid_parameter_value(message)


mlflow.models.set_model(ServedEncNet())
