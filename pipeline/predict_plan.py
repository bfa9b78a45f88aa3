"""Which images are predicted, under which names, and what of it is left to do: pure functions of listings.

An image of the name a/b has its results in a/b.png (class map), a/b.overlay.jpg and a/b.json, which is written last.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from posixpath import normpath
from typing import NamedTuple

from pipeline.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png")
"""Of images, in lower case: what else lies in a folder is passed over."""
_WILDCARDS = set("*?[")


class Input(NamedTuple):
    """An image that is to be predicted."""

    root: str
    """URI of the folder or prefix that it lies below."""
    key: str
    """Its place below `root`."""
    version: str
    """Size and time of a file, ETag of an object: tells its contents from others'."""

    @property
    def uri(self) -> str:
        return f"{self.root.rstrip('/')}/{self.key}"

    @property
    def name(self) -> str:
        """Of its results: `key` without the extension."""
        path = PurePosixPath(self.key)
        return self.key.removesuffix(path.suffix) if path.suffix.lower() in EXTENSIONS else self.key


class Job(NamedTuple):
    """An image that is left to do."""

    image: Input
    leftovers: tuple[str, ...]
    """Keys of results of that name that are there, of other options or unfinished; the record first."""


class Chosen(NamedTuple):
    """What a listing holds."""

    images: list[str]
    """Keys, in natural order."""
    passed_over: Counter[str]
    """How many files of each other extension."""


def class_map_key(name: str) -> str:
    return f"{name}.png"


def overlay_key(name: str) -> str:
    return f"{name}.overlay.jpg"


def record_key(name: str) -> str:
    return f"{name}.json"


def result_keys(name: str) -> tuple[str, str, str]:
    """All that may be there of an image; the record first, which makes it count as done."""
    return record_key(name), class_map_key(name), overlay_key(name)


def split_pattern(text: str) -> tuple[str, str]:
    """The folder in front of the first wildcard, and the pattern below it; ('...', '') for text without wildcards."""
    parts = text.split("/")
    first = next((place for place, part in enumerate(parts) if _WILDCARDS & set(part)), None)
    if first is None:
        return text, ""
    return "/".join(parts[:first]) or ("/" if text.startswith("/") else "."), "/".join(parts[first:])


def literal_prefix(pattern: str) -> str:
    """What all keys that match begin with."""
    return re.split(r"[*?\[]", pattern, maxsplit=1)[0]


def matches(key: str, pattern: str) -> bool:
    """Whether a key is of the pattern: as in a shell, `*` stays within a folder, `**` is any number of folders."""
    return _matches(key.split("/"), pattern.split("/"))


def _matches(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return _matches(parts, patterns[1:]) or (bool(parts) and _matches(parts[1:], patterns))
    return bool(parts) and fnmatchcase(parts[0], patterns[0]) and _matches(parts[1:], patterns[1:])


def natural_order(key: str) -> tuple[list[list[str | int]], str]:
    """What sorts frame2 before frame10, and keeps what is in one folder together."""
    parts = [re.split(r"([0-9]+)", part) for part in key.split("/")]
    return [[int(piece) if place % 2 else piece for place, piece in enumerate(part)] for part in parts], key


def choose_images(keys: Iterable[str], pattern: str = "") -> Chosen:
    """The images among the keys of a folder that match, in natural order. Hidden files are passed over unsaid."""
    shown = [key for key in keys if not key.endswith("/") and not any(map(_is_hidden, key.split("/")))]
    named = [(key, PurePosixPath(key).suffix.lower()) for key in shown if not pattern or matches(key, pattern)]
    images = sorted((key for key, extension in named if extension in EXTENSIONS), key=natural_order)
    return Chosen(images, Counter(extension or "none" for _, extension in named if extension not in EXTENSIONS))


def _is_hidden(part: str) -> bool:
    return part.startswith(".")


def outside(inputs: Iterable[Input], output: str) -> list[Input]:
    """Those that don't lie below `output`: what is there is, or will be, a result."""
    folder = f"{normpath(output).rstrip('/')}/"
    return [one for one in inputs if not normpath(one.uri).startswith(folder)]


def unite(inputs: Iterable[Input]) -> list[Input]:
    """Each image once, in order. Raises InputError where two would have one name, or a name leads out of OUTPUT."""
    named: dict[str, Input] = {}
    for one in inputs:
        if not all(part not in ("", ".", "..") for part in one.key.split("/")):
            raise InputError(f"INPUT: {one.uri}: {one.key!r} is no name for a result: rename it")
        other = named.setdefault(one.name, one)
        if other.uri != one.uri:
            raise InputError(
                f"INPUT: {other.uri} and {one.uri} would both be written as {one.name!r}: rename one, or give each "
                "an OUTPUT of its own"
            )
    return list(named.values())


def fingerprint(image: Input, identity: str) -> str:
    """sha256 (hex) of all that an image's results depend on. `identity`: of the model and of the options."""
    # Listings and reads of some stores differ in the quotes around an ETag.
    text = "\n".join([identity, image.uri, image.version.strip('"')])
    return hashlib.sha256(text.encode()).hexdigest()


def recorded_names(inputs: Iterable[Input], there: Collection[str]) -> list[str]:
    """The names of the inputs that have a record in a listing of OUTPUT."""
    return [one.name for one in inputs if record_key(one.name) in there]


def left_to_do(
    inputs: Iterable[Input], records: Mapping[str, str], identity: str, there: Collection[str], force: bool = False
) -> list[Job]:
    """The images that are not finished, in order.

    Args:
        inputs: all.
        records: name -> fingerprint, of the records there are.
        identity: of the model and of the options.
        there: the keys in OUTPUT.
        force: all are left to do.
    """
    return [
        Job(one, tuple(key for key in result_keys(one.name) if key in there))
        for one in inputs
        if force or records.get(one.name) != fingerprint(one, identity)
    ]


def share_out(jobs: Sequence[Job], num_workers: int, batch_size: int, most: int = 32) -> list[Sequence[Job]]:
    """Runs of neighbours, one a task: whole batches, at most about `most` images, and several for each worker."""
    even = -(-len(jobs) // (4 * num_workers))
    size = -(-min(even, most) // batch_size) * batch_size
    return [jobs[first : first + size] for first in range(0, len(jobs), max(1, size))]
