"""The columns of a split's index in memory and as a parquet file: a hundred million samples fit into a worker's memory.

The only module that knows parquet.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

NUMBERS: Mapping[str, type[np.integer[Any]]] = {
    "offset": np.int64,
    "length": np.int32,
    "width": np.int32,
    "height": np.int32,
    "checksum": np.uint64,
}
"""The columns of numbers, and what they are in memory."""
_IN_FILE = {"length": "int64"}
"""Where that is another type, as it has always been."""
_ROWS = 1 << 20
"""Of a row group: they are written one after the other."""
_PIECE = 1 << 16
"""Strings that are worked on at once."""


class KeyColumn(Sequence[str]):
    """Keys, as UTF-8 side by side: four bytes a key besides its own."""

    def __init__(self, pieces: pa.ChunkedArray) -> None:
        self._pieces = pieces

    @classmethod
    def of(cls, keys: Iterable[str]) -> KeyColumn:
        """A column of these. Raises ValueError for one that is no text, such as a lone surrogate."""
        import pyarrow as pa

        rest = iter(keys)
        pieces = iter(lambda: list(islice(rest, _PIECE)), [])
        return cls(pa.chunked_array([pa.array(piece, pa.string()) for piece in pieces], pa.string()))

    def __len__(self) -> int:
        return len(self._pieces)

    @overload
    def __getitem__(self, place: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> KeyColumn: ...
    def __getitem__(self, place: SupportsIndex | slice) -> str | KeyColumn:
        found = self._pieces[place]
        return KeyColumn(found) if isinstance(place, slice) else str(found)

    def __iter__(self) -> Iterator[str]:
        for piece in self.pieces():
            yield from piece

    def pieces(self) -> Iterator[list[str]]:
        """All of them, some at a time."""
        for chunk in self._pieces.chunks:
            for first in range(0, len(chunk), _PIECE):
                yield chunk.slice(first, _PIECE).to_pylist()

    @property
    def arrow(self) -> pa.ChunkedArray:
        """Of strings; shares its memory."""
        return self._pieces


class IndexTable(NamedTuple):
    """The columns of an index, a row a sample."""

    keys: KeyColumn
    shard_names: tuple[str, ...]
    """In the order in which samples first name them."""
    shard: NDArray[np.int32]
    """Position in `shard_names`."""
    numbers: Mapping[str, Any]
    """Arrays, by the names and of the types of `NUMBERS`."""


def to_parquet(table: IndexTable) -> bytes:
    """The bytes of a parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    names = pa.array(table.shard_names, pa.string())
    buffer = io.BytesIO()
    with parquet.ParquetWriter(buffer, _schema()) as writer:
        for first in range(0, max(1, len(table.keys)), _ROWS):
            rows = slice(first, first + _ROWS)
            numbers = {name: pa.array(column[rows]) for name, column in table.numbers.items()}
            columns = {"key": table.keys.arrow[rows], "shard": names.take(pa.array(table.shard[rows])), **numbers}
            writer.write_table(pa.table(columns).cast(_schema()))
    return buffer.getvalue()


def from_parquet(data: bytes) -> IndexTable:
    """The inverse of `to_parquet`. Raises ValueError saying what is wrong with the file."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pa.BufferReader(data))
        rows = file.metadata.num_rows
        if rows > len(data):  # a checksum alone takes eight bytes
            raise ValueError(f"it claims {rows:,} rows in {len(data):,} bytes")
        return _read(file, rows)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(str(error)) from error


def _read(file: Any, rows: int) -> IndexTable:
    """Piece by piece, so that hardly more is held than what becomes of it."""
    import pyarrow as pa

    if missing := [name for name in _schema().names if name not in file.schema_arrow.names]:
        raise ValueError(f"it has no column {', '.join(missing)}")
    places: dict[str, int] = {}
    shard = np.empty(rows, np.int32)
    numbers = {name: np.empty(rows, kind) for name, kind in NUMBERS.items()}
    keys: list[pa.Array] = []
    first = 0
    for batch in file.iter_batches(_PIECE, columns=_schema().names):
        here = slice(first, first := first + len(batch))
        keys.append(_typed(batch, "key", pa.string()))
        named = _typed(batch, "shard", pa.string()).dictionary_encode()
        places_here = [places.setdefault(name, len(places)) for name in named.dictionary.to_pylist()]
        shard[here] = np.array(places_here, np.int32)[np.from_dlpack(named.indices)]
        for name, column in numbers.items():
            # Arrow's own way to numpy imports pandas first, which takes longer than most indexes do.
            column[here] = np.from_dlpack(_typed(batch, name, pa.from_numpy_dtype(column.dtype)))
    if first != rows:
        raise ValueError(f"it claims {rows:,} rows and has {first:,}")
    return IndexTable(KeyColumn(pa.chunked_array(keys, pa.string())), tuple(places), shard, numbers)


def _typed(batch: pa.RecordBatch, name: str, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    column = batch.column(name)
    if column.null_count:
        raise ValueError(f"its column {name} has gaps")
    try:
        return column.cast(kind)
    except pa.ArrowException as error:
        raise ValueError(f"its column {name}: {error}") from error


def _schema() -> pa.Schema:
    import pyarrow as pa

    numbers = {name: pa.type_for_alias(_IN_FILE.get(name, np.dtype(kind).name)) for name, kind in NUMBERS.items()}
    return pa.schema({"key": pa.string(), "shard": pa.string(), **numbers})
