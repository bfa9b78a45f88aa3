"""The MLflow model registry: its aliases, and how a MODEL is found."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline import tracking
from pipeline.environment import overridden
from pipeline.errors import InputError, first_line

CANDIDATE = "candidate"
CHAMPION = "champion"
PREVIOUS = "previous"
_REGISTERED, _LOGGED = "models:/", "runs:/"
_WEIGHTS = "artifacts/weights.safetensors"


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a registered model, as the registry has it."""

    name: str
    number: str
    aliases: tuple[str, ...] = ()
    created: datetime
    """In UTC."""
    run_id: str = ""
    """MLflow's run that it comes from; '' for none."""
    tags: Mapping[str, str] = field(default_factory=dict)
    card: str = ""
    """Its model card, Markdown."""

    @property
    def uri(self) -> str:
        """models:/NAME/VERSION."""
        return f"models:/{self.name}/{self.number}"

    @property
    def model_id(self) -> str:
        """MLflow's logged model, which metrics are linked to."""
        return self.tags.get("model_id", "")

    @property
    def miou(self) -> float | None:
        """On the validation split, a share of 1: as evaluated, else as in training; None where neither was done."""
        score = self.tags.get("eval/val/miou") or self.tags.get("val/best_miou")
        return float(score) if score else None


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


@contextmanager
def resolve_model(uri: str) -> Iterator[ResolvedModel]:
    """The model behind `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/...`, a folder or a file, for the block.

    Raises InputError for a URI that names no model.
    """
    if not uri.startswith((_REGISTERED, _LOGGED)):
        yield ResolvedModel(uri=uri, weights=_find_weights(Path(uri), uri))
        return
    # An alias is looked up once, so that what is evaluated can't change on the way.
    found = find_version(uri) if uri.startswith(_REGISTERED) else None
    pinned = found.uri if found else uri
    tracking.connect()
    with tempfile.TemporaryDirectory(prefix="encnet-model-") as folder:
        bars = {tracking.BARS: str(sys.stderr.isatty()).lower()}
        with _explained("MODEL", uri), overridden(bars):
            place = Path(mlflow.artifacts.download_artifacts(pinned, dst_path=folder))
        model = ResolvedModel(uri=pinned, weights=_find_weights(place, uri))
        yield replace(model, name=found.name, version=found.number, model_id=found.model_id) if found else model


def find_version(uri: str) -> Version:
    """The version behind `models:/NAME@ALIAS` or `models:/NAME/VERSION`. Nothing of it is downloaded.

    Raises InputError where there is none.
    """
    name, at, alias = uri.removeprefix(_REGISTERED).partition("@")
    number = ""
    if not at:
        name, _, number = name.partition("/")
    if not uri.startswith(_REGISTERED) or not name or not (alias if at else number.isdigit()):
        raise InputError(f"MODEL: {uri!r}: write models:/NAME@ALIAS or models:/NAME/VERSION")
    client = tracking.connect()
    with _explained("MODEL", uri):
        version = client.get_model_version_by_alias(name, alias) if at else client.get_model_version(name, number)
        return _version(version, client.get_registered_model(name).aliases)


def find_aliases(name: str) -> dict[str, str]:
    """Alias -> version of a registered model. Raises InputError where there is no such model."""
    client = tracking.connect()
    with _explained("NAME", name):
        return {alias: str(number) for alias, number in client.get_registered_model(name).aliases.items()}


def list_versions(name: str = "") -> list[Version]:
    """The versions of a registered model, or of all: by name, the newest first.

    Raises InputError where there is no model of that name.
    """
    client = tracking.connect()
    with _explained("NAME", name):
        models = [client.get_registered_model(name)] if name else list(tracking.pages(client.search_registered_models))
        found = []
        for model in sorted(models, key=lambda model: model.name):
            search = partial(client.search_model_versions, f"name='{model.name}'")
            versions = [_version(version, model.aliases) for version in tracking.pages(search)]
            found += sorted(versions, key=lambda version: int(version.number), reverse=True)
        return found


def digest_weights(path: Path) -> str:
    """sha256 (hex) of a file of weights."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def training_data(model: ResolvedModel | Version) -> str:
    """The URI of the data set that the model was trained on, as its run has it; '' where that is not known."""
    if isinstance(model, Version):
        run_id = model.run_id
    elif model.name:
        run_id = find_version(model.uri).run_id
    else:
        run_id = model.uri.split("/")[1] if model.uri.startswith(_LOGGED) else ""
    if not run_id:
        return ""
    client = tracking.connect()
    try:
        return str(client.get_run(run_id).data.params.get("data.uri", ""))
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # the run was deleted
            return ""
        raise tracking.explain(error, model.uri) from error


def _version(found: ModelVersion, aliases: Mapping[str, object]) -> Version:
    number = str(found.version)
    return Version(
        name=found.name,
        number=number,
        aliases=tuple(sorted(alias for alias, at in aliases.items() if str(at) == number)),
        created=datetime.fromtimestamp((found.creation_timestamp or 0) / 1000, UTC),
        run_id=found.run_id or "",
        tags=dict(found.tags),
        card=found.description or "",
    )


@contextmanager
def _explained(what: str, value: str) -> Iterator[None]:
    """MLflow's errors as ours; that there is no such thing is the user's."""
    try:
        yield
    except (MlflowException, OSError) as error:  # of requests, for artifacts
        if getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise InputError(f"{what}: {value!r}: {first_line(error).rstrip('.')}: see 'encnet models list'") from None
        raise tracking.explain(error, value) from error


def _find_weights(path: Path, uri: str) -> Path:
    for place in (path, path / _WEIGHTS, path / "weights.safetensors"):
        if place.is_file():
            return place
    raise InputError(f"MODEL: {uri!r}: holds no weights.safetensors: name a registered model or a folder with one")
