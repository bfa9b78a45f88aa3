"""Registering: weights in safetensors become a version of a registered model, with all that is to be known of it.

A version has signature, input example and code to serve it (`pipeline.served_model`), the digests of its weights and
of its data set, the commit, scores, licence and a model card. Tags are for people; what they need is in few of them.

Large files go to the object store itself: MLflow's server, which else passes on every byte, signs addresses for the
parts, where its artifacts lie on S3. MLflow does so from 500 MiB on, which no network here has; `DIRECT_BYTES` is ours.
Where clients can't reach the store, MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD=false has all of it go through the server.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
from mlflow.entities import LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

import encnet
from pipeline import tracking
from pipeline.environment import overridden
from pipeline.model_card import Card
from pipeline.registry import digest_weights
from pipeline.sample_reader import SampleReader
from pipeline.shards import read_index
from pipeline.storage import Store

DIRECT_BYTES = 16 << 20
"""Files of this size and more are sent to the object store directly."""
WEIGHTS_DIGEST = "weights sha256"
_EXAMPLE_SIDE = 128
_DIRECT = "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE"
_STEP = "step"
"""The tag of a logged model that says which weights of its run it is."""
_SERVED = Path(__file__).with_name("served_model.py")
_PACKAGES = ("mlflow", "numpy", "pillow", "safetensors")
SIGNATURE = ModelSignature(
    # Objects, so that arrays pass as well as the bytes of files: MLflow knows no signature for either of two.
    inputs=Schema([TensorSpec(np.dtype(object), (-1,))]),
    outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1))]),
    params=ParamSchema([ParamSpec("probabilities", DataType.boolean, False)]),
)


def register_model(
    name: str, weights: Path, card: Card, *, example: np.ndarray, tags: Mapping[str, str], alias: str
) -> str:
    """Store `weights` as a version of registered model `name`, point `alias` at it, and return the version.

    Done again after it broke off, it goes on from there: there is one version for a run and a step.

    `example`: a small uint8 image (H, W, 3). `weights` must be named weights.safetensors.
    """
    client = tracking.connect()
    try:
        model_id = _logged_model(client, card) or _log_model(weights, card, example)
        every_tag = {**card.tags(), **tags, WEIGHTS_DIGEST: digest_weights(weights), "model_id": model_id}
        version = _version(client, name, model_id, card.run_id, every_tag)
        if version.description:  # which is written last
            return str(version.version)
        tracking.score_version(
            client, card.run_id, name, version.version, model_id, card.scores(), card.dataset.name,
            card.dataset.digest, {}, card.step,
        )  # fmt: skip
        client.log_text(card.run_id, card.text(name, version.version), "model_card.md")
        client.set_registered_model_alias(name, alias, version.version)
        client.update_model_version(name, version.version, card.description(name, version.version))
        return str(version.version)
    except (MlflowException, OSError) as error:  # of requests, for artifacts
        raise tracking.explain(error, f"model {name!r} could not be registered") from error


def example_image(store: Store, split: str) -> np.ndarray:
    """A small real image (H, W, 3) uint8 of a data set, shown with what is registered as its input example."""
    image, _ = SampleReader(store, read_index(store, split)).load(0)
    every = -(-max(image.shape) // _EXAMPLE_SIDE)
    return np.ascontiguousarray(image[::every, ::every])


def _logged_model(client: mlflow.MlflowClient, card: Card) -> str:
    """The id of the logged model of this run and step, if it was stored whole before; else ''."""
    outputs = client.get_run(card.run_id).outputs
    for output in outputs.model_outputs if outputs else ():
        model = client.get_logged_model(output.model_id)
        if model.status == LoggedModelStatus.READY and model.tags.get(_STEP) == str(card.step):
            return str(model.model_id)
    return ""


def _log_model(weights: Path, card: Card, example: np.ndarray) -> str:
    """Store the weights with the code that serves them; returns the id of the logged model."""
    requirements = [f"{package}=={version(package)}" for package in _PACKAGES]
    with mlflow.start_run(run_id=card.run_id), _no_bytecode(), _direct():
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(_SERVED),
            artifacts={"weights": str(weights)},
            code_paths=[str(Path(encnet.__file__).parent)],
            signature=SIGNATURE,
            input_example=example[None],
            pip_requirements=[*requirements, f"torch=={version('torch').split('+')[0]}"],
            step=card.step,
            tags={_STEP: str(card.step)},
        )
    return str(info.model_id)


def _version(
    client: mlflow.MlflowClient, name: str, model_id: str, run_id: str, tags: Mapping[str, str]
) -> ModelVersion:
    """The version of `name` that is this logged model: the one that is there, or a new one."""
    with suppress(MlflowException):  # it is there already; where it could not be made, the next call tells
        client.create_registered_model(name)
    for found in client.search_model_versions(f"name='{name}' and run_id='{run_id}'"):
        if found.tags.get("model_id") == model_id:
            return found
    source = client.get_logged_model(model_id).model_uri
    return client.create_model_version(name, source, run_id, tags=dict(tags), model_id=model_id)


def _direct() -> AbstractContextManager[None]:
    """Send large files to the object store itself, but for a size that the user has set."""
    return overridden({} if _DIRECT in os.environ else {_DIRECT: str(DIRECT_BYTES)})


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """MLflow loads the model's code from the folder that it stores: nothing compiled should be left in there."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
