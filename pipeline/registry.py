"""The MLflow model registry: versions with weights in safetensors, aliases, and how a MODEL is found."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

import encnet
from pipeline import tracking
from pipeline.errors import InputError, TrackingError, first_line
from pipeline.shards import DatasetInfo

CANDIDATE = "candidate"
CHAMPION = "champion"
PREVIOUS = "previous"
_WEIGHTS = "artifacts/weights.safetensors"
_SERVED = Path(__file__).with_name("served_model.py")
_SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
    outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1))]),
)


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A model pinned down: an alias resolved once, its weights on this machine."""

    uri: str
    """models:/NAME/VERSION, or the folder or file."""
    weights: Path
    name: str = ""
    version: str = ""
    model_id: str = ""
    """MLflow's logged model, which metrics are linked to."""


def register_model(
    name: str,
    weights: Path,
    dataset: DatasetInfo,
    *,
    run_id: str,
    example: np.ndarray,
    metrics: Mapping[str, float],
    step: int,
    tags: Mapping[str, str],
    alias: str,
) -> str:
    """Store `weights` as a new version of registered model `name`, point `alias` at it, and return the version.

    `metrics`: shares in 0..1 that the weights reached at `step`.
    `example`: a small uint8 image (H, W, 3). `weights` must be named weights.safetensors.
    """
    client = tracking.connect()
    requirements = [f"{package}=={version(package)}" for package in ("mlflow", "numpy", "safetensors")]
    try:
        with mlflow.start_run(run_id=run_id), _no_bytecode():
            info = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(_SERVED),
                artifacts={"weights": str(weights)},
                code_paths=[str(Path(encnet.__file__).parent)],
                signature=_SIGNATURE,
                input_example=example[None],
                pip_requirements=[*requirements, f"torch=={version('torch').split('+')[0]}"],
                registered_model_name=name,
            )
        registered = str(info.registered_model_version)
        every_tag = {**tags, "data set digest": dataset.digest, "model_id": info.model_id}
        tracking.score_version(
            client, run_id, name, registered, info.model_id, metrics, dataset.name, dataset.digest, every_tag, step
        )
        scores = ", ".join(f"{key} {100 * value:.2f} %" for key, value in metrics.items())
        client.update_model_version(name, registered, f"{scores} on {dataset.name}, from run {run_id}.")
        client.set_registered_model_alias(name, alias, registered)
        return registered
    except MlflowException as error:
        raise TrackingError(f"MLflow: model {name!r} could not be registered: {first_line(error)}") from error


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """MLflow loads the model's code from the folder that it stores: nothing compiled should be left in there."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


@contextmanager
def resolve_model(uri: str) -> Iterator[ResolvedModel]:
    """The model behind `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/...`, a folder or a file, for the block.

    Raises InputError for a URI that names no model.
    """
    if not uri.startswith(("models:/", "runs:/")):
        yield ResolvedModel(uri=uri, weights=_find_weights(Path(uri), uri))
        return
    client = tracking.connect()
    with tempfile.TemporaryDirectory(prefix="encnet-model-") as folder:
        try:
            pinned = _pin(client, uri)
            place = Path(mlflow.artifacts.download_artifacts(pinned.uri, dst_path=folder))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise InputError(f"MODEL: {uri!r}: {first_line(error)}: see the MLflow UI for names") from None
            raise TrackingError(f"MLflow: {uri}: {first_line(error)}") from error
        yield ResolvedModel(
            uri=pinned.uri,
            weights=_find_weights(place, uri),
            name=pinned.name,
            version=pinned.version,
            model_id=pinned.model_id,
        )


def make_champion(name: str, version: str) -> None:
    """Point the alias champion of `name` at `version`, and previous at the champion there was."""
    client = tracking.connect()
    try:
        before = client.get_registered_model(name).aliases.get(CHAMPION)
        if before is not None and before != version:
            client.set_registered_model_alias(name, PREVIOUS, before)
        client.set_registered_model_alias(name, CHAMPION, version)
    except MlflowException as error:
        raise TrackingError(f"MLflow: {name} version {version}: {first_line(error)}") from error


def _pin(client: mlflow.MlflowClient, uri: str) -> ResolvedModel:
    """Resolve an alias once, so that what is evaluated can't change on the way."""
    if uri.startswith("runs:/"):
        return ResolvedModel(uri=uri, weights=Path())
    name, at, alias = uri.removeprefix("models:/").partition("@")
    if at:
        found = client.get_model_version_by_alias(name, alias)
    else:
        name, _, number = name.partition("/")
        if not number.isdigit():
            raise InputError(f"MODEL: {uri!r}: write models:/NAME@ALIAS, models:/NAME/VERSION, runs:/... or a folder")
        found = client.get_model_version(name, number)
    return ResolvedModel(
        uri=f"models:/{name}/{found.version}",
        weights=Path(),
        name=name,
        version=str(found.version),
        model_id=found.tags.get("model_id", ""),
    )


def _find_weights(path: Path, uri: str) -> Path:
    for place in (path, path / _WEIGHTS, path / "weights.safetensors"):
        if place.is_file():
            return place
    raise InputError(f"MODEL: {uri!r}: holds no weights.safetensors: name a registered model or a folder with one")
