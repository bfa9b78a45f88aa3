"""Weights to start a run with: found wherever they are, and as much of them taken as fits the recipe's network."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import encnet
from encnet.checkpoint_file import read_checkpoint
from encnet.weights import Part
from pipeline.errors import InputError
from pipeline.registry import resolve_model
from pipeline.storage import ObjectNotFound, open_store

_FILE = "weights.safetensors"
_TAKEN: dict[Part, str] = {
    "all": "all of it",
    "all-but-classifiers": "all but the last layers of the heads and the SE branch, which begin at random",
    "backbone": "the backbone only; all else begins at random",
}
"""The parts to try, widest first, and what they are in words."""


def load_start_weights(net: encnet.SegmentationNet, source: str) -> list[str]:
    """Copy into `net` what fits of the weights at `source`; returns what was taken, and why no more was.

    `source`: torchvision's, PyTorch-Encoding's, mmsegmentation's or our own weights, in a file on this machine, on S3
    or on the web; or a folder that holds weights.safetensors; or a registered model (models:/NAME@ALIAS).

    Raises InputError when nothing fits, or there are none.
    """
    place: str | Path = source
    try:
        with find_weights(source) as place:
            read_checkpoint(place, progress=False)  # what can't be read or fetched at all is not tried part by part
            return [note.replace(str(place), source) for note in _load(net, place)]
    except ValueError as error:
        text = str(error).removeprefix("MODEL: ").replace(str(place), source)
        raise InputError(f"start_weights: {text}") from None


def _load(net: encnet.SegmentationNet, place: str | Path) -> list[str]:
    """Copy the widest part that fits; raises ValueError when not even the narrowest does."""
    trial, reasons = copy.deepcopy(net), list[str]()
    for part, taken in _TAKEN.items():
        try:
            encnet.load_weights(trial, place, part, progress=False)
        except ValueError as error:
            reasons.append(str(error))
            continue
        net.load_state_dict(trial.state_dict())
        return [f"{place}: {taken}", *reasons[-1:], *_differences(trial, net)]
    raise ValueError(reasons[-1])


def _differences(trial: encnet.SegmentationNet, net: encnet.SegmentationNet) -> list[str]:
    """What the weights were trained for that this network does otherwise: load_weights sets it on the trial."""
    was, now = trial.config.align_corners, net.config.align_corners
    return [] if was == now else [f"they were trained with align_corners={was}, this run has {now}"]


@contextmanager
def find_weights(source: str) -> Iterator[str | Path]:
    """Where `encnet.load_weights` can read the weights at `source`, for the block. Raises InputError."""
    if source.startswith(("http://", "https://")):
        yield source
    elif source.startswith("s3://"):
        with tempfile.TemporaryDirectory(prefix="encnet-start-") as folder:
            yield _download(source, Path(folder))
    elif source.startswith(("models:/", "runs:/")) or Path(source).is_dir():
        with resolve_model(source) as model:
            yield model.weights
    else:
        yield Path(source).expanduser()


def _download(source: str, folder: Path) -> Path:
    """The object at `source`, or weights.safetensors below it where that names no file, in `folder`."""
    parent, _, name = source.rstrip("/").rpartition("/")
    root, key = (parent, name) if PurePosixPath(name).suffix else (source, _FILE)
    try:
        (folder / key).write_bytes(open_store(root).read(key))
    except ObjectNotFound:
        raise InputError(f"{root.rstrip('/')}/{key}: no such object: check the address") from None
    return folder / key
