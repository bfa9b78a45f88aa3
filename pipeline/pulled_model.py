"""Pulling: a registered model as a folder that other programs read, whole or not at all.

weights.safetensors   with the configuration in its header, for encnet.load_model
config.json           the same configuration, for people and scripts
model_card.md         what it is, where it comes from, what it reaches
origin.json           which version it is, and the sha256 of its weights
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import encnet
from pipeline.errors import InputError, PipelineError
from pipeline.registration import WEIGHTS_DIGEST
from pipeline.registry import Version, digest_weights, find_version, resolve_model

WEIGHTS, CONFIG, CARD, ORIGIN = "weights.safetensors", "config.json", "model_card.md", "origin.json"
FILES = {WEIGHTS, CONFIG, CARD, ORIGIN}


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """Where a version is now."""

    folder: Path
    model_uri: str
    digest: str
    """sha256 (hex) of its weights."""
    was_there: bool
    """Whether it had been pulled there before, and is whole: nothing was downloaded then."""


def pull_model(uri: str, folder: Path | None = None, *, replace: bool = False) -> Pulled:
    """Download a version into `folder`, by default NAME-vVERSION here. Done again, it looks whether all is there.

    Args:
        uri: models:/NAME@ALIAS or models:/NAME/VERSION.
        folder: is made; one with anything else in it is refused.
        replace: what was pulled there before, by that what is asked for now.

    Raises InputError for no such version and a folder that holds something else; PipelineError where the weights are
    not those that were registered.
    """
    version = find_version(uri)
    folder = (folder or Path(f"{version.name}-v{version.number}")).absolute()
    there = _origin(folder)
    if there is not None and there.get("model_uri") == version.uri and _is_whole(folder, there):
        return Pulled(folder=folder, model_uri=version.uri, digest=there["sha256"], was_there=True)
    if _names(folder) - (FILES if there else set()):
        raise InputError(f"DEST: {str(folder)!r} is there already and holds other files: choose another folder")
    if there is not None and there.get("model_uri") != version.uri and not replace:
        raise InputError(
            f"DEST: {str(folder)!r} holds {there.get('model_uri')}: choose another one, or replace it by --force"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as place:
        made = Path(place) / folder.name
        made.mkdir()
        digest = _fill(made, version)
        if folder.exists():
            shutil.rmtree(folder)
        made.replace(folder)
    return Pulled(folder=folder, model_uri=version.uri, digest=digest, was_there=False)


def _fill(folder: Path, version: Version) -> str:
    """Download a version into an empty folder; returns the digest of its weights."""
    with resolve_model(version.uri) as model:
        digest = digest_weights(model.weights)
        registered = version.tags.get(WEIGHTS_DIGEST, digest)  # older versions have none
        if digest != registered:
            raise PipelineError(
                f"{version.uri}: its weights have sha256 {digest[:12]}, and {registered[:12]} was registered: they are "
                "damaged, or were replaced on storage: don't use them"
            )
        config = encnet.read_config(model.weights)
        shutil.copyfile(model.weights, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(asdict(config), indent=2) + "\n")
    (folder / CARD).write_text(version.card)
    origin = {"model_uri": version.uri, "sha256": digest, "registered": version.created.isoformat(), **_known(version)}
    (folder / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n")
    return digest


def _known(version: Version) -> dict[str, Any]:
    """Tags of the version that are of use where the registry is not at hand."""
    names = ("data set", "data set digest", "git commit", "licence")
    return {name: version.tags[name] for name in names if name in version.tags}


def _origin(folder: Path) -> dict[str, Any] | None:
    """What `origin.json` in a folder says; None where there is none of ours."""
    try:
        found = json.loads((folder / ORIGIN).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"DEST: {str(folder / ORIGIN)!r} can't be read ({error}): choose another folder") from None
    return found if isinstance(found, dict) and "sha256" in found else None


def _is_whole(folder: Path, origin: dict[str, Any]) -> bool:
    files = all((folder / name).is_file() for name in (WEIGHTS, CONFIG, CARD))
    return files and digest_weights(folder / WEIGHTS) == origin["sha256"]


def _names(folder: Path) -> set[str]:
    """What is in a folder; nothing where it is not there."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"DEST: {str(folder)!r} is a file: choose a folder")
    return {path.name for path in folder.iterdir()} if folder.exists() else set()
