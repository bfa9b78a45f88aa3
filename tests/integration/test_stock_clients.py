"""The registered model as a stock MLflow client sees it: loaded and used without this repository, without pickle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

import encnet
from pipeline.datasets import context_scenes
from pipeline.registry import resolve_model
from pipeline.transforms import decode_image
from tests.integration.conftest import Trained

MODEL = "models:/encnet-tiny@candidate"
CLIENT = """
import importlib.util, sys
import numpy as np

# What makes this repository importable: without it there is no encnet but the one stored with the model.
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
assert importlib.util.find_spec("encnet") is None and importlib.util.find_spec("pipeline") is None

import mlflow

model = mlflow.pyfunc.load_model(sys.argv[1])
images = np.load(sys.argv[2])
np.save(sys.argv[3], model.predict(images))
print(sys.modules["encnet"].__file__)
print(model.metadata.signature)
"""


@pytest.fixture
def images() -> np.ndarray:
    """(2, H, W, 3) uint8: two crops of real validation pictures."""
    pictures = [decode_image(sample.image, "jpg") for sample in context_scenes.samples("val", 2, seed=0)]
    return np.stack([picture[:72, :100] for picture in pictures])


def test_a_stock_client_loads_and_predicts(trained: Trained, images: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", images)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ENCNET"))}
    done = subprocess.run(
        [sys.executable, "-I", "-c", CLIENT, MODEL, "images.npy", "classes.npy"],
        cwd=tmp_path,
        env={**environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "type hints" not in done.stderr
    used = Path(done.stdout.splitlines()[0])
    assert not used.is_relative_to(Path(encnet.__file__).parent)
    assert used.parent.parent.name == "code"
    predicted = np.load(tmp_path / "classes.npy")
    with resolve_model(MODEL) as resolved, torch.inference_mode():
        assert resolved.uri == trained.result["model_uri"]
        model, _ = encnet.load_model(resolved.weights)
        logits = model.eval()(encnet.normalize(torch.from_numpy(images))).logits
    assert predicted.dtype == np.uint8
    assert np.array_equal(predicted, logits.argmax(1).numpy())
    assert len(np.unique(predicted)) > 1


def test_what_is_stored_holds_no_pickle(trained: Trained, tmp_path: Path) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(MODEL, dst_path=str(tmp_path)))
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"MLmodel", "artifacts/weights.safetensors", "served_model.py", "code/encnet/model.py"} <= files
    assert not [name for name in files if Path(name).suffix in (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".pyc")]
    assert not [name for name in files if (folder / name).read_bytes()[:1] == b"\x80"]
    example = np.array(mlflow.models.Model.load(str(folder)).load_input_example(str(folder)), np.uint8)
    assert (example.ndim, example.shape[0], example.shape[3]) == (4, 1, 3)
    assert example.std() > 1
