"""Images with an annotation file each: found, paired, and read as samples. What most layouts share."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.datasets.annotations import read_bytes, read_text
from pipeline.datasets.layout import LazySamples, Palette, Source, SplitSource
from pipeline.errors import InputError
from pipeline.shards import Sample
from pipeline.transforms import Label


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image, its annotation, and the key that both go by."""

    key: str
    image: Path
    annotation: Path


def pair_files(
    images: Path, annotations: Path, *, image_ends: Sequence[str] = (".jpg", ".png"), annotation_end: str = ".png"
) -> list[Pair]:
    """The files of two folders, folders within included, that have equal keys; sorted by the images' paths.

    A key is a file's name without one of the ends. InputError when a folder is missing or holds no image, two images
    or two annotations have one key, or a file has no partner.
    """
    found, labels = find_files(images, image_ends), find_files(annotations, (annotation_end,))
    if not found:
        kinds = " or ".join(sorted(end.lstrip(".") for end in image_ends))
        raise InputError(f"{images}: holds no {kinds} files: check --source")
    for key in sorted(found.keys() ^ labels.keys()):
        if key in found:
            partner = annotations / found[key].parent.relative_to(images) / f"{key}{annotation_end}"
            raise InputError(f"{found[key]}: has no annotation {partner}: add it or remove the image")
        raise InputError(f"{labels[key]}: has no image in {images}: add it or remove the annotation")
    return [Pair(key=key, image=path, annotation=labels[key]) for key, path in found.items()]


def find_files(folder: Path, ends: Sequence[str]) -> dict[str, Path]:
    """Key -> file, of those below a folder that have one of the ends.

    InputError when the folder is missing, or two of its files have one key.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder: check --source")
    pattern = re.compile(rf"(?P<key>[^.].*)({'|'.join(map(re.escape, ends))})", re.IGNORECASE)
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        match = pattern.fullmatch(path.name)
        if match is None:
            continue
        key = match["key"]
        if key in found:
            raise InputError(f"{path}: {found[key].relative_to(folder)} has the same name: keep one of them")
        found[key] = path
    return found


def read_list(path: Path) -> list[str]:
    """The keys in a text file of one a line. InputError when it is missing or empty, or names one twice."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file: check --source")
    keys = read_text(path).split()
    if not keys:
        raise InputError(f"{path}: names no images: restore it")
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise InputError(f"{path}: names {key!r} twice: remove one")
        seen.add(key)
    return keys


def pair_listed(
    keys: Iterable[str], images: Path, annotations: Path, *, image_end: str = ".jpg", annotation_end: str = ".png"
) -> list[Pair]:
    """The pairs of a list of keys, in its order. InputError when a file of one is missing."""
    pairs = [
        Pair(key=key, image=images / f"{key}{image_end}", annotation=annotations / f"{key}{annotation_end}")
        for key in keys
    ]
    for pair in pairs:
        for path in (pair.image, pair.annotation):
            if not path.is_file():
                raise InputError(f"{path}: is missing, though {pair.key!r} is listed: restore it or shorten the list")
    return pairs


def read_source(
    folder: Path,
    splits: Mapping[str, Sequence[Pair]],
    read_label: Callable[[Path], Label],
    *,
    lists: Sequence[Path] = (),
    other_folder: Path | None = None,
    classes: tuple[str, ...] | None = None,
    palette: Palette | None = None,
) -> Source:
    """The pairs of each split as samples, read when their turn comes.

    `lists` are the text files that say what is in a split, or what an id means; `other_folder` is where the pairs lie
    that are not below `folder`.
    """
    roots = (folder, *([other_folder] if other_folder else []))
    files = [path for pairs in splits.values() for pair in pairs for path in (pair.image, pair.annotation)]
    listed = {"lists": hashlib.sha256(b"\0".join(map(read_bytes, lists))).hexdigest()} if lists else {}
    return Source(
        arguments={"files": len(files), "fingerprint": fingerprint(roots, files), **listed},
        splits={
            split: SplitSource(
                samples=LazySamples(partial(read_pair, roots, read_label), pairs),
                num_bytes=sum(pair.image.stat().st_size for pair in pairs),
            )
            for split, pairs in splits.items()
        },
        classes=classes,
        palette=palette,
    )


def read_pair(roots: Sequence[Path], read_label: Callable[[Path], Label], pair: Pair) -> Sample:
    """A pair as a sample, with the image's own bytes.

    InputError naming a file that can't be used, or the machine that this runs on where it does not see the folders.
    """
    for root in roots:
        if not root.is_dir():
            raise InputError(f"{root}: is not there on {platform.node()}: all nodes of a cluster must see the source")
    extension = pair.image.suffix.lower().lstrip(".")
    return Sample(
        key=pair.key,
        image=read_bytes(pair.image),
        extension="jpg" if extension == "jpeg" else extension,
        label=read_label(pair.annotation),
        source=_relative(pair.image, roots),
    )


def fingerprint(roots: Sequence[Path], files: Iterable[Path]) -> str:
    """sha256 (hex) over the files' names and sizes: cheap, and other for almost any other contents."""
    state = hashlib.sha256()
    for path in sorted(files):
        state.update(f"{_relative(path, roots)}\0{path.stat().st_size}\n".encode())
    return state.hexdigest()


def _relative(path: Path, roots: Sequence[Path]) -> str:
    """The path below the first of the folders that it is in: where those lie is nothing to a data set."""
    return path.relative_to(next(root for root in roots if path.is_relative_to(root))).as_posix()
