"""Annotation files -> train ids, and colours for those."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.layout import Palette
from pipeline.datasets.mat_file import read_array
from pipeline.errors import InputError
from pipeline.sample_reader import decode_ids
from pipeline.shards import IGNORE_INDEX
from pipeline.transforms import Label


@dataclass(frozen=True, kw_only=True)
class TrainIds:
    """What the ids in annotation files become."""

    of: Mapping[int, int]
    """Id -> train id, or 255 for what is ignored."""
    allowed: str
    """What a person is told when there is another one."""
    _table: NDArray[np.int16] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        table = np.full(1 << 16, -1, np.int16)
        table[list(self.of)] = list(self.of.values())
        object.__setattr__(self, "_table", table)

    def read(self, path: Path) -> Label:
        """An annotation PNG as (H, W) train ids. InputError naming the file when it can't be used."""
        return self.renumber(read_ids(path), path)

    def renumber(self, ids: NDArray[np.uint8] | NDArray[np.uint16], path: Path) -> Label:
        """(H, W) ids -> train ids. InputError naming the file and the highest of the ids that there should not be."""
        label = self._table[ids]
        if label.min() < 0:
            raise InputError(f"{path}: holds the id {ids[label < 0].max()}: {self.allowed}")
        return label.astype(np.uint8)


def read_ids(path: Path) -> NDArray[np.uint8]:
    """An annotation PNG -> (H, W) ids: grey levels, or positions in its palette.

    InputError naming the file when it is no such PNG.
    """
    try:
        return decode_ids(read_bytes(path))
    except ValueError as error:
        raise InputError(f"{path}: the annotation can't be used, it {error}: replace it") from error


def read_mat(path: Path, *names: str) -> NDArray[np.uint16]:
    """The (H, W) ids that a MATLAB file holds in the variable, field of a variable, ... `names`.

    InputError naming the file when they are not there.
    """
    try:
        return read_array(read_bytes(path), *names)
    except ValueError as error:
        raise InputError(f"{path}: the annotation can't be used, it {error}: replace it") from error


def read_bytes(path: Path) -> bytes:
    """A file's contents. InputError when it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}): restore it, or its permissions") from error


def read_text(path: Path) -> str:
    """A text file's contents. InputError when it can't be read, or is no UTF-8."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text in UTF-8: save it as such") from error


def bit_colours(ids: Iterable[int]) -> Palette:
    """The colours of PASCAL VOC's colour map, in which the bits of an id are spread over red, green and blue.

    All ids from 0 to 255 have colours of their own; 0 is black. Source: VOClabelcolormap of the VOC development kit.
    """
    return tuple((_spread(number), _spread(number >> 1), _spread(number >> 2)) for number in ids)


def _spread(number: int) -> int:
    """Every third bit of an id, from the highest bit of a colour downwards."""
    return sum((number >> 3 * place & 1) << 7 - place for place in range(3))


def consecutive(count: int) -> dict[int, int]:
    """The ids 0 .. count - 1 as they are, and 255 = ignored."""
    return {number: number for number in (*range(count), IGNORE_INDEX)}
