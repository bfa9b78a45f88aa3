"""Columns of an index: what goes in comes out, also of older files, and no damage ends in anything but an error."""

from __future__ import annotations

import hashlib
import io
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from pipeline import index_table, shards
from pipeline.errors import DataError
from pipeline.index_table import NUMBERS, IndexTable, KeyColumn, from_parquet, to_parquet
from pipeline.shards import ShardIndex, format_index, parse_index

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@st.composite
def indexes(draw: st.DrawFn) -> ShardIndex:
    """Of up to 30 samples in up to 4 shards."""
    counts = draw(st.lists(st.integers(1, 12), max_size=4))
    size = sum(counts)
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    numbers: dict[str, Any] = {
        name: rng.integers(0, np.iinfo(kind).max, size, kind, endpoint=True) for name, kind in NUMBERS.items()
    }
    return ShardIndex(
        split="train",
        shard_names=tuple(draw(st.lists(KEYS, min_size=len(counts), max_size=len(counts), unique=True))),
        keys=KeyColumn.of(draw(st.lists(KEYS, min_size=size, max_size=size))),
        shard=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        **numbers,
    )


def digest_by_definition(index: ShardIndex) -> str:
    """All at once, as it was defined."""
    state = hashlib.sha256("\n".join([*index.shard_names, "", *index.keys]).encode())
    for name, kind in {"shard": "i4", "offset": "i8", "length": "i8", "width": "i4", "height": "i4"}.items():
        state.update(getattr(index, name).astype(f"<{kind}").tobytes())
    state.update(index.checksum.astype("<u8").tobytes())
    return state.hexdigest()


@settings(max_examples=60, deadline=None)
@given(indexes(), st.integers(1, 7), st.integers(1, 7))
def test_an_index_comes_back_whole_however_few_rows_are_handled_at_once(
    index: ShardIndex, rows: int, piece: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_table, "_ROWS", rows)
        patch.setattr(index_table, "_PIECE", piece)
        patch.setattr(shards, "_HASHED_AT_ONCE", piece)
        again = parse_index(format_index(index), "train", "x")
        assert again.digest() == index.digest() == digest_by_definition(index)
    assert again.shard_names == index.shard_names
    assert list(again.keys) == list(index.keys)
    for name in (*NUMBERS, "shard"):
        assert getattr(again, name).dtype == getattr(index, name).dtype
        assert np.array_equal(getattr(again, name), getattr(index, name))


def make_table(count: int = 40) -> IndexTable:
    rng = np.random.default_rng(0)
    return IndexTable(
        KeyColumn.of(f"key{number}" for number in range(count)),
        ("a.tar", "b.tar"),
        np.arange(count, dtype=np.int32) * 2 // max(1, count),
        {name: rng.integers(0, 1 << 30, count, kind) for name, kind in NUMBERS.items()},
    )


def written(**columns: Any) -> bytes:
    """The file of `make_table` with some columns of other contents, or without them."""
    table = parquet.read_table(io.BytesIO(to_parquet(make_table())))
    for name, column in columns.items():
        place = table.column_names.index(name)
        table = table.remove_column(place) if column is None else table.set_column(place, name, column)
    file = io.BytesIO()
    parquet.write_table(table, file)
    return file.getvalue()


def test_lengths_are_64_bits_wide_in_files_and_32_in_memory() -> None:
    data = to_parquet(make_table())
    schema = parquet.read_schema(io.BytesIO(data))
    assert {name: str(schema.field(name).type) for name in schema.names} == {
        "key": "string",
        "shard": "string",
        "offset": "int64",
        "length": "int64",
        "width": "int32",
        "height": "int32",
        "checksum": "uint64",
    }
    assert from_parquet(data).numbers["length"].dtype == np.int32


def test_columns_of_other_types_that_hold_the_same_are_taken() -> None:
    lengths = make_table().numbers["length"]
    for kind in (pa.int32(), pa.uint32(), pa.uint64()):
        assert np.array_equal(from_parquet(written(length=pa.array(lengths).cast(kind))).numbers["length"], lengths)
    keys = pa.array([f"key{number}" for number in range(40)])
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        assert list(from_parquet(written(key=keys.cast(kind))).keys) == keys.to_pylist()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"length": pa.array([1 << 31] * 40)}, "its column length: Integer value 2147483648 not in range"),
        ({"offset": pa.array([None, *range(39)])}, "its column offset has gaps"),
        ({"width": pa.array(["x"] * 40)}, "its column width: Failed to parse"),
        ({"shard": None, "height": None}, "it has no column shard, height"),
    ],
)
def test_columns_that_are_no_index_s_are_named(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_index(written(**columns), "train", "s3://b/train/index.parquet")
    assert str(caught.value).startswith(f"s3://b/train/index.parquet: is no index of shards ({message}")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=4))
def test_however_a_file_is_damaged_it_is_a_table_or_a_value_error(flips: list[tuple[int, int]]) -> None:
    data = bytearray(to_parquet(make_table()))
    for place, bits in flips:
        data[place % len(data)] ^= bits
    try:
        table = from_parquet(bytes(data))
    except ValueError:
        return
    assert len(table.keys) == len(table.shard) == len(table.numbers["checksum"])


@settings(deadline=None)
@given(st.lists(KEYS, max_size=20), st.integers(1, 7))
def test_keys_are_a_sequence_of_str(keys: list[str], piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_table, "_PIECE", piece)
        column = KeyColumn.of(iter(keys))
        assert list(column) == keys
        assert [text for one in column.pieces() for text in one] == keys
    assert len(column) == len(keys)
    assert [column[place] for place in range(len(keys))] == keys
    assert [column[place] for place in np.arange(len(keys))] == keys
    assert list(column[1:-1]) == keys[1:-1]
    assert list(pickle.loads(pickle.dumps(column))) == keys  # noqa: S301
    with pytest.raises(IndexError):
        column[len(keys)]


def test_a_key_takes_little_more_memory_than_its_text() -> None:
    column = KeyColumn.of(f"ADE_train_{number:010}" for number in range(200_000))
    again = from_parquet(to_parquet(make_table(200_000)._replace(keys=column))).keys
    for keys in (column, again):
        assert keys.arrow.get_total_buffer_size() < 25 * 200_000
