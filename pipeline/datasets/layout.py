"""What a data set's source is to the rest: named splits of samples, read from a folder or generated."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.shards import Sample


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asked to have prepared. None: not said."""

    source: Path | None = None
    train_samples: int | None = None
    val_samples: int | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class SplitSource:
    """One split's samples, not read yet."""

    count: int
    samples: Iterable[Sample]


@dataclass(frozen=True, kw_only=True)
class Source:
    """The splits that a request stands for."""

    arguments: Mapping[str, Any]
    """What identifies the contents: equal arguments, equal samples."""
    splits: Mapping[str, SplitSource]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A kind of data set."""

    name: str
    version: str
    """Changes when the same source comes to give other samples."""
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    """RGB of each class."""
    open: Callable[[Request], Source] = field(repr=False)
    """Finds the samples; InputError when the request or the source is not as the layout wants it."""


def refuse_options(request: Request, layout: str, names: Iterable[str], remedy: str) -> None:
    """InputError when one of the request's fields `names`, which the layout has no use for, was given."""
    for name in names:
        value = getattr(request, name)
        if value is not None:
            raise InputError(f"{name.replace('_', '-')}: {value} is nothing for layout {layout!r}: {remedy}")


def fingerprint(folder: Path, files: Iterable[Path]) -> str:
    """sha256 (hex) over the files' names and sizes: cheap, and other for almost any other contents."""
    state = hashlib.sha256()
    for path in sorted(files):
        state.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\n".encode())
    return state.hexdigest()


def pair_files(images: Path, annotations: Path, extensions: Iterable[str]) -> list[tuple[Path, Path]]:
    """(image, annotation) of equal stem, sorted; annotations are PNGs.

    InputError when a folder is missing or empty, or a file has no partner.
    """
    for folder in (images, annotations):
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder: check --source")
    by_stem: dict[str, Path] = {}
    for path in sorted(path for path in images.iterdir() if path.suffix.lower().lstrip(".") in set(extensions)):
        if path.stem in by_stem:
            raise InputError(f"{path}: {by_stem[path.stem].name} has the same name: keep one of them")
        by_stem[path.stem] = path
    labels = {path.stem: path for path in annotations.iterdir() if path.suffix.lower() == ".png"}
    if not by_stem:
        raise InputError(f"{images}: holds no {' or '.join(sorted(set(extensions)))} files: check --source")
    for stem in sorted(by_stem.keys() ^ labels.keys()):
        if stem in by_stem:
            raise InputError(f"{by_stem[stem]}: has no annotation {annotations / stem}.png: add it or remove the image")
        raise InputError(f"{labels[stem]}: has no image in {images}: add it or remove the annotation")
    return [(path, labels[stem]) for stem, path in by_stem.items()]
