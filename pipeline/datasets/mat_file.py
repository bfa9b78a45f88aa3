"""Ids from MATLAB files of version 5, which SBD and PASCAL-Context are in: one array, found by name, and no more.

scipy's reader ends the whole process at some damaged files; here every file gives its array or a ValueError that says
why not. Source of the layout: "MAT-File Format", MathWorks, chapter 1.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 1 << 28
"""Of a compressed variable once it is inflated."""
_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _COMPLEX = 2, 0x800
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""What an array is, by the number of its class."""
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 12: "i8", 13: "u8"}
"""What its values are written as, which may be smaller."""
_OTHERS = {1: "a cell array", _STRUCT: "a struct", 3: "an object", 4: "text", 5: "a sparse matrix"}
_Element = tuple[int, memoryview]
"""(type, contents)."""
_Order = Literal["<", ">"]
"""Little or big endian, as struct and numpy call them."""


class _Matrix(NamedTuple):
    """A variable or a field, its head read."""

    kind: int
    """Number of its class."""
    is_complex: bool
    shape: tuple[int, ...]
    name: str
    rest: Iterator[_Element]
    """What stands after its name; can be read once."""


def read_array(data: bytes, *names: str) -> NDArray[np.uint16]:
    """The (H, W) array of 8 or 16 bits in the variable, field of a variable, ... `names`.

    Raises ValueError saying what the file holds in its place, or where it is damaged.
    """
    path = ".".join(names)
    order = _byte_order(data)
    found = next((one for one in _variables(data, order) if one.name == names[0]), None)
    for name in names[1:]:
        found = _field(found, name, order) if found else None
    if found is None:
        raise ValueError(f"holds no {path}")
    dtype = np.dtype(_CLASSES.get(found.kind, "V"))
    if dtype not in (np.uint8, np.uint16) or len(found.shape) != 2 or 0 in found.shape or found.is_complex:
        what = _OTHERS.get(found.kind) or f"{'complex ' if found.is_complex else ''}{dtype}"
        raise ValueError(f"holds {path} as {what} of shape {found.shape}, not as (height, width) of 8 or 16 bits")
    return _values(found, np.iinfo(dtype).max, path, order)


def _field(matrix: _Matrix, name: str, order: _Order) -> _Matrix | None:
    """A field of a struct; None where it is no struct, or has no such field."""
    if matrix.kind != _STRUCT or math.prod(matrix.shape) != 1:
        return None
    width, names = (bytes(next(matrix.rest, (0, b""))[1]) for _ in range(2))
    size = int.from_bytes(width, "little" if order == "<" else "big")
    if not 0 < size <= len(names) or len(names) % size:
        raise ValueError(f"is damaged: the names of {matrix.name}'s fields can't be told apart")
    fields = [names[first : first + size].partition(b"\0")[0].decode("latin-1") for first in range(0, len(names), size)]
    found = dict(zip(fields, matrix.rest, strict=False)).get(name)
    return _matrix(found[1], order) if found and found[0] == _MATRIX and found[1] else None


def _values(matrix: _Matrix, most: int, path: str, order: _Order) -> NDArray[np.uint16]:
    stored, contents = next(matrix.rest, (0, memoryview(b"")))
    written = np.dtype(_STORED.get(stored, "V")).newbyteorder(order)
    if written.kind not in "iu" or len(contents) != math.prod(matrix.shape) * written.itemsize:
        raise ValueError(f"is damaged: {len(contents)} bytes are not the values of {path}, of shape {matrix.shape}")
    values = np.frombuffer(contents, written)
    if values.min() < 0 or values.max() > most:
        raise ValueError(f"is damaged: {path} has values from {values.min()} to {values.max()}, not from 0 to {most}")
    return values.astype(np.uint16).reshape(matrix.shape, order="F")


def _byte_order(data: bytes) -> _Order:
    orders: dict[bytes, _Order] = {b"IM": "<", b"MI": ">"}
    order = orders.get(data[126:_HEADER_BYTES])
    if order is None or struct.unpack_from(f"{order}H", data, 124) != (0x100,):
        raise ValueError("is no MATLAB file of version 5 to 7 (that -v7 saves)")
    return order


def _variables(data: bytes, order: _Order) -> Iterator[_Matrix]:
    for kind, contents in _elements(memoryview(data)[_HEADER_BYTES:], order):
        if kind == _COMPRESSED:
            kind, contents = next(_elements(_inflated(contents), order), (0, contents))
        if kind == _MATRIX:
            yield _matrix(contents, order)


def _inflated(contents: memoryview) -> memoryview:
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(contents, MAX_BYTES)
    except zlib.error as error:
        raise ValueError(f"is damaged: {error}") from error
    if not inflater.eof:
        raise ValueError(f"is damaged: a variable is cut off, or takes more than {MAX_BYTES:,} bytes")
    return memoryview(inflated)


def _elements(view: memoryview, order: _Order) -> Iterator[_Element]:
    """The data elements side by side in `view`."""
    at = 0
    while at < len(view):
        if len(view) - at < 8:
            raise ValueError("is damaged: it is cut off within the head of an element")
        kind, length = struct.unpack_from(f"{order}II", view, at)
        begin, stop = at + 8, at + 8 + length
        at = stop if kind == _COMPRESSED else stop + -length % 8
        if kind >> 16:  # a small one: its head holds its contents
            kind, length, begin = kind & 0xFFFF, kind >> 16, begin - 4
            stop, at = begin + length, begin + 4
        if stop > min(at, len(view)):
            raise ValueError(f"is damaged: an element claims {length:,} bytes, {len(view) - begin:,} are there")
        yield kind, view[begin:stop]


def _matrix(contents: memoryview, order: _Order) -> _Matrix:
    """A matrix element, its flags, dimensions and name read."""
    rest = _elements(contents, order)
    flags, dimensions, name = (bytes(next(rest, (0, b""))[1]) for _ in range(3))
    if len(flags) != 8 or not dimensions or len(dimensions) % 4:
        raise ValueError("is damaged: a variable has no flags or dimensions")
    (bits,) = struct.unpack_from(f"{order}I", flags)
    shape = struct.unpack(f"{order}{len(dimensions) // 4}I", dimensions)
    return _Matrix(bits & 0xFF, bool(bits & _COMPLEX), shape, name.decode("latin-1"), rest)
