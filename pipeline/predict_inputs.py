"""The images behind an INPUT, found on storage: a file, a folder, a pattern, or objects below an s3:// prefix."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import InputError
from pipeline.image_header import read_header
from pipeline.predict_plan import Input, choose_images, literal_prefix, outside, split_pattern, unite
from pipeline.resumed_read import ObjectNotFound, Versioned
from pipeline.storage import LocalStore, Store, open_store
from pipeline.transforms import Image, decode_image


class Found(NamedTuple):
    """What the INPUTs stand for."""

    images: list[Input]
    """In the order of the INPUTs; those of a folder in natural order."""
    passed_over: Counter[str]
    """How many files there are of each extension that is none of an image."""


class Decoded(NamedTuple):
    """An image's pixels, or what is wrong with it."""

    image: Image | None
    """(H, W, 3) RGB, as stored: an EXIF orientation is left alone."""
    version: str = ""
    fault: str = ""


def find_inputs(texts: Iterable[str], output: Store) -> Found:
    """All images that are to be predicted, but for those below `output`.

    Raises InputError for an INPUT without images, and for two images of one name.
    """
    images: list[Input] = []
    passed_over: Counter[str] = Counter()
    for text in texts:
        found = _find(text)
        kept = outside(found.images, output.uri())
        if not kept:
            raise InputError(f"INPUT: {text!r}: {_why_none(found, output)}")
        images += kept
        passed_over += found.passed_over
    return Found(unite(images), passed_over)


def _why_none(found: Found, output: Store) -> str:
    if found.images:
        return f"lies in OUTPUT, {output.uri()}, where images are results: give another OUTPUT"
    others = ", ".join(f"{count} of {extension}" for extension, count in found.passed_over.items())
    return f"no .jpg, .jpeg or .png there{f', but {others}' if others else ''}: give an image, a folder or a pattern"


def _find(text: str) -> Found:
    """The images behind one INPUT. InputError when nothing is there at all."""
    on_s3 = text.startswith("s3://")
    path = Path(text.removeprefix("file://")).expanduser()
    if not on_s3 and path.is_file():
        return _one_file(path.absolute())
    folder, pattern = (text, "") if not on_s3 and path.is_dir() else split_pattern(text)
    store = open_store(folder)
    if not on_s3 and not Path(store.uri()).is_dir():
        raise InputError(f"INPUT: {text!r}: there is no such file or folder: check the path")
    versions = store.versions(literal_prefix(pattern))
    if not versions and on_s3 and not pattern:
        return _one_object(text)
    images, passed_over = choose_images(versions, pattern)
    return Found([Input(store.uri(), key, versions[key]) for key in images], passed_over)


def _one_file(path: Path) -> Found:
    folder = LocalStore(root=path.parent)
    return Found([Input(folder.uri(), path.name, _read(folder, path.name, 0).version)], Counter())


def _one_object(uri: str) -> Found:
    parent, _, name = uri.rstrip("/").rpartition("/")
    versions = open_store(parent).versions(name) if parent not in ("s3:/", "s3://") else {}
    if name not in versions:
        raise InputError(f"INPUT: {uri!r}: there is no such object, and none below it: check the address")
    return Found([Input(open_store(parent).uri(), name, versions[name])], Counter())


def load_image(one: Input, cancelled: threading.Event | None = None) -> Decoded:
    """Read and decode an image; what is wrong with the image itself, or that it is gone, is told, not raised.

    Raises StorageError when the store fails, ReadCancelled soon after `cancelled` is set, InputError when it refuses.
    """
    store = open_store(one.root)
    try:
        data, version = _read(store, one.key, cancelled=cancelled)
    except ObjectNotFound:
        return Decoded(None, fault="is no longer there")
    except InputError as error:
        if not isinstance(store, LocalStore):  # what is refused there is refused for all
            raise
        return Decoded(None, fault=str(error))
    try:
        header = read_header(data)
        # By what it is, not by its name: folders are full of JPEGs called .png.
        return Decoded(decode_image(data, header.kind), version)
    except ValueError as error:
        return Decoded(None, fault=str(error))


def _read(store: Store, key: str, length: int | None = None, cancelled: threading.Event | None = None) -> Versioned:
    if isinstance(store, LocalStore):
        path = (store.root / key).resolve()  # a link may lead out of the folder
        store, key = LocalStore(root=path.parent), path.name
    return store.read_versioned(key, 0, length, cancelled=cancelled)
