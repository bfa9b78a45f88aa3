"""The registered form: what it takes for images, what it gives, and what it says of what is no image."""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import torch
from mlflow.exceptions import MlflowException
from PIL import Image

import encnet
from pipeline.transforms import decode_image
from tests.unit.pipeline.small_model import CONFIG, store_model


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Any type hint is inferred")  # MLflow's own, of its own types
        from pipeline.served_model import ServedEncNet

    store_model(tmp_path, monkeypatch)
    model = ServedEncNet()
    model.load_context(SimpleNamespace(artifacts={"weights": str(tmp_path / "weights.safetensors")}))
    return model


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def encode(image: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, quality=90)
    return file.getvalue()


def objects(items: list[Any]) -> np.ndarray:
    """As MLflow hands over a list."""
    array = np.empty(len(items), object)
    array[:] = items
    return array


def plain(model: Any, image: np.ndarray) -> np.ndarray:
    """The classes of one image, by the network itself."""
    with torch.inference_mode():
        logits = model.model(encnet.normalize(torch.from_numpy(image[None]))).logits
    return np.asarray(logits.argmax(1)[0])


def test_arrays_give_class_ids(served: Any) -> None:
    images = np.stack(pictures((40, 56), (40, 56)))
    classes = served.predict(None, images)
    assert (classes.shape, classes.dtype) == ((2, 40, 56), np.uint8)
    for image, found in zip(images, classes, strict=True):
        assert np.array_equal(found, plain(served, image))
    assert len(np.unique(classes)) > 1
    assert np.array_equal(served.predict(None, images.astype(object)), classes), "as JSON gives them"
    assert np.array_equal(served.predict(None, images[0]), classes[:1]), "one image without its dimension"


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_files_are_decoded_as_in_training(served: Any, kind: str) -> None:
    (image,) = pictures((48, 64))
    file = encode(image, kind)
    expected = plain(served, decode_image(file, kind))
    text = base64.b64encode(file).decode()
    wrapped = base64.encodebytes(file).decode()  # with line breaks, as MLflow's own encoder has them
    for given in (objects([file]), objects([text]), objects([wrapped]), [file], file, pd.DataFrame({"image": [text]})):
        (classes,) = served.predict(None, given)
        assert np.array_equal(classes, expected)


def test_probabilities_are_given_when_asked_for(served: Any) -> None:
    images = np.stack(pictures((40, 56), (40, 56)))
    found = served.predict(None, images, params={"probabilities": True})
    assert found.keys() == {"classes", "probabilities"}
    assert (found["probabilities"].shape, found["probabilities"].dtype) == ((2, CONFIG.num_classes, 40, 56), np.float32)
    np.testing.assert_allclose(found["probabilities"].sum(1), 1, atol=1e-5)
    assert np.array_equal(found["probabilities"].argmax(1), found["classes"])
    with torch.inference_mode():
        logits = served.model(encnet.normalize(torch.from_numpy(images))).logits.double()
    np.testing.assert_allclose(found["probabilities"], torch.softmax(logits, 1), atol=1e-4)
    assert np.array_equal(served.predict(None, images, params={"probabilities": False}), found["classes"])


def test_images_of_several_sizes_come_back_in_order(served: Any) -> None:
    images = pictures((40, 56), (32, 48), (40, 56))
    classes = served.predict(None, objects(images))
    assert isinstance(classes, list)
    for image, found in zip(images, classes, strict=True):
        assert np.array_equal(found, plain(served, image))
    both = served.predict(None, objects(images), params={"probabilities": True})
    assert [shares.shape[1:] for shares in both["probabilities"]] == [(40, 56), (32, 48), (40, 56)]
    assert all(np.array_equal(one, other) for one, other in zip(both["classes"], classes, strict=True))
    assert list(served.predict(None, objects([]))) == []


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("kein base64!", "image 1: a text that is no base64: encode a JPEG or PNG file in it"),
        (b"GIF89a", "image 1: 6 bytes that are no whole JPEG or PNG file"),
        (encode(pictures((64, 64))[0], "jpeg")[:900], "image 1: 900 bytes that are no whole JPEG or PNG file"),
        (encode(pictures((64, 64))[0], "png")[:900], "image 1: 900 bytes that are no whole JPEG or PNG file"),
        (np.zeros((40, 40), np.uint8), "image 1: shape (40, 40): give (height, width, 3), RGB"),
        (np.zeros((40, 40, 4), np.uint8), "image 1: shape (40, 40, 4): give (height, width, 3), RGB"),
        (np.zeros((40, 40, 3), np.float32), "image 1: float32 pixels: give (height, width, 3) of whole numbers"),
        (np.full((40, 40, 3), 256, object), "image 1: pixels outside 0 to 255: give (height, width, 3) of whole"),
        ([[[0.5, 0.5, 0.5]]], "image 1: float64 pixels"),
        ([[[1, 2, 3]], [[1, 2]]], "image 1: setting an array element with a sequence"),
    ],
)
def test_what_is_no_image_is_named(served: Any, item: object, words: str) -> None:
    with pytest.raises(MlflowException) as caught:
        served.predict(None, objects([pictures((40, 40))[0], item]))
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    assert caught.value.message.startswith(words)


def test_a_table_must_have_one_column(served: Any) -> None:
    with pytest.raises(MlflowException, match=r"^a table of 2 columns: give one column of images"):
        served.predict(None, pd.DataFrame({"image": ["a"], "name": ["b"]}))


def test_it_imports_nothing_of_this_house_but_encnet() -> None:
    text = (Path(__file__).parents[3] / "pipeline" / "served_model.py").read_text()
    assert "pipeline import" not in text
    assert "from pipeline" not in text
