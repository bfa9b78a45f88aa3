"""The MLflow model registry: versions with weights in safetensors, aliases, and how a MODEL is found."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
from mlflow.entities import LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

import encnet
from pipeline import tracking
from pipeline.errors import InputError, first_line
from pipeline.model_card import ModelCard

CANDIDATE = "candidate"
CHAMPION = "champion"
PREVIOUS = "previous"
_STEP = "step"
"""The tag of a logged model that says which weights of its run it is."""
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
    name: str, weights: Path, card: ModelCard, *, example: np.ndarray, tags: Mapping[str, str], alias: str
) -> str:
    """Store `weights` as a version of registered model `name`, point `alias` at it, and return the version.

    Done again after it broke off, it goes on from there: there is one version for a run and a step.

    `example`: a small uint8 image (H, W, 3). `weights` must be named weights.safetensors.
    """
    client = tracking.connect()
    try:
        model_id = _logged_model(client, card) or _log_model(weights, card, example)
        version = _version(client, name, model_id, card.run_id)
        if version.description:  # which is written last
            return str(version.version)
        score = {"val/best_miou": card.miou}
        every_tag = {**tags, "data set digest": card.dataset.digest, "model_id": model_id}
        tracking.score_version(
            client, card.run_id, name, version.version, model_id, score, card.dataset.name, card.dataset.digest,
            every_tag, card.step,
        )  # fmt: skip
        client.log_text(card.run_id, card.text(name, version.version), "model_card.md")
        client.set_registered_model_alias(name, alias, version.version)
        client.update_model_version(name, version.version, card.description(name, version.version))
        return str(version.version)
    except (MlflowException, OSError) as error:  # of requests, for artifacts
        raise tracking.explain(error, f"model {name!r} could not be registered") from error


def _logged_model(client: mlflow.MlflowClient, card: ModelCard) -> str:
    """The id of the logged model of this run and step, if it was stored whole before; else ''."""
    outputs = client.get_run(card.run_id).outputs
    for output in outputs.model_outputs if outputs else ():
        model = client.get_logged_model(output.model_id)
        if model.status == LoggedModelStatus.READY and model.tags.get(_STEP) == str(card.step):
            return str(model.model_id)
    return ""


def _log_model(weights: Path, card: ModelCard, example: np.ndarray) -> str:
    """Store the weights with the code that serves them; returns the id of the logged model."""
    requirements = [f"{package}=={version(package)}" for package in ("mlflow", "numpy", "safetensors")]
    with mlflow.start_run(run_id=card.run_id), _no_bytecode():
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(_SERVED),
            artifacts={"weights": str(weights)},
            code_paths=[str(Path(encnet.__file__).parent)],
            signature=_SIGNATURE,
            input_example=example[None],
            pip_requirements=[*requirements, f"torch=={version('torch').split('+')[0]}"],
            step=card.step,
            tags={_STEP: str(card.step)},
        )
    return str(info.model_id)


def _version(client: mlflow.MlflowClient, name: str, model_id: str, run_id: str) -> ModelVersion:
    """The version of `name` that is this logged model: the one that is there, or a new one."""
    with suppress(MlflowException):  # it is there already; where it could not be made, the next call tells
        client.create_registered_model(name)
    for found in client.search_model_versions(f"name='{name}' and run_id='{run_id}'"):
        if found.tags.get("model_id") == model_id:
            return found
    source = client.get_logged_model(model_id).model_uri
    return client.create_model_version(name, source, run_id, tags={"model_id": model_id}, model_id=model_id)


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
            raise tracking.explain(error, uri) from error
        yield ResolvedModel(
            uri=pinned.uri,
            weights=_find_weights(place, uri),
            name=pinned.name,
            version=pinned.version,
            model_id=pinned.model_id,
        )


def training_data(model: ResolvedModel) -> str:
    """The URI of the data set that the model was trained on, as its run has it; '' where that is not known."""
    if not (model.name or model.uri.startswith("runs:/")):
        return ""
    client = tracking.connect()
    try:
        run_id = client.get_model_version(model.name, model.version).run_id if model.name else model.uri.split("/")[1]
        return str(client.get_run(run_id).data.params.get("data.uri", "")) if run_id else ""
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # the run was deleted
            return ""
        raise tracking.explain(error, model.uri) from error


def make_champion(name: str, version: str) -> None:
    """Point the alias champion of `name` at `version`, and previous at the champion there was."""
    client = tracking.connect()
    try:
        before = client.get_registered_model(name).aliases.get(CHAMPION)
        if before is not None and before != version:
            client.set_registered_model_alias(name, PREVIOUS, before)
        client.set_registered_model_alias(name, CHAMPION, version)
    except MlflowException as error:
        raise tracking.explain(error, f"{name} version {version}") from error


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
