"""MATLAB files: what scipy and the format's rules write is read as scipy reads it, and no damage ends in a crash."""

from __future__ import annotations

import io
import re
import struct
import zlib
from typing import Literal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from pipeline.datasets import mat_file
from pipeline.datasets.mat_file import read_array

IDS = (np.arange(14 * 19) % 23).astype(np.uint8).reshape(14, 19)


def mat(contents: dict[str, object], compressed: bool = False) -> bytes:
    file = io.BytesIO()
    savemat(file, contents, do_compression=compressed)
    return file.getvalue()


def sbd(compressed: bool = False) -> bytes:
    """As SBD's are: a struct with a field in front of the ids and one after them."""
    boundaries = np.empty((3, 1), object)
    boundaries[:] = [[np.eye(3)], [np.ones((2, 2), np.uint8)], [np.zeros((0, 0))]]
    struct_ = {"Boundaries": boundaries, "Segmentation": IDS, "CategoriesPresent": [[1.0, 2.0]]}
    return mat({"other": "text", "GTcls": struct_}, compressed)


def element(kind: int, contents: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}II", kind, len(contents)) + contents + bytes(-len(contents) % 8)


def header(order: str = "<", version: int = 0x100) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}HH", version, 0x4D49)


def matrix(kind: int, stored: int, values: bytes, shape: tuple[int, ...] = (2, 3), order: str = "<") -> bytes:
    parts = [
        element(6, struct.pack(f"{order}II", kind, 0), order),
        element(5, struct.pack(f"{order}{len(shape)}i", *shape), order),
        element(1, b"LabelMap", order),
        element(stored, values, order),
    ]
    return element(14, b"".join(parts), order)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_field_among_others_is_read_as_scipy_reads_it(compressed: bool) -> None:
    data = sbd(compressed)
    found = read_array(data, "GTcls", "Segmentation")
    assert np.array_equal(found, IDS)
    assert np.array_equal(found, loadmat(io.BytesIO(data), simplify_cells=True)["GTcls"]["Segmentation"])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 9), st.sampled_from(["u1", "u2"]), st.booleans(), st.text("abcXYZ_", min_size=1)
)
def test_arrays_of_any_size_and_name(height: int, width: int, kind: str, compressed: bool, name: str) -> None:
    ids = np.random.default_rng(0).integers(0, np.iinfo(kind).max + 1, (height, width), kind)
    name = f"x{name}"[:31]
    data = mat({"before": np.eye(3), name: ids, "after": "text"}, compressed)
    assert np.array_equal(read_array(data, name), ids)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "stored", "written"), [(11, 2, "u1"), (11, 4, "u2"), (9, 2, "u1"), (11, 5, "i4")])
def test_values_may_be_written_smaller_and_in_either_byte_order(
    order: Literal["<", ">"], kind: int, stored: int, written: str
) -> None:
    ids = np.array([[0, 1, 2], [3, 4, 255]])
    values = ids.astype(np.dtype(written).newbyteorder(order)).tobytes(order="F")
    data = header(order) + matrix(kind, stored, values, order=order)
    assert np.array_equal(read_array(data, "LabelMap"), ids)
    assert np.array_equal(read_array(data, "LabelMap"), loadmat(io.BytesIO(data))["LabelMap"])


@pytest.mark.parametrize(
    ("data", "names", "message"),
    [
        (sbd(), ("GTinst", "Segmentation"), "holds no GTinst.Segmentation"),
        (sbd(), ("GTcls", "Seg"), "holds no GTcls.Seg"),
        (mat({"GTcls": IDS}), ("GTcls", "Segmentation"), "holds no GTcls.Segmentation"),
        (
            mat({"GTcls": np.zeros((2, 2), [("Segmentation", "O")])}),
            ("GTcls", "Segmentation"),
            "holds no GTcls.Segmentation",
        ),
        (
            sbd(),
            ("GTcls",),
            "holds GTcls as a struct of shape (1, 1), not as (height, width) of 8 or 16 bits",
        ),
        (
            mat({"x": IDS[None]}),
            ("x",),
            "holds x as uint8 of shape (1, 14, 19), not as (height, width) of 8 or 16 bits",
        ),
        (mat({"x": IDS[:0]}), ("x",), "holds x as uint8 of shape (0, 19), not as (height, width) of 8 or 16 bits"),
        (mat({"x": "text"}), ("x",), "holds x as text of shape (1, 4), not as (height, width) of 8 or 16 bits"),
        (b"", ("x",), "is no MATLAB file of version 5 to 7 (that -v7 saves)"),
        (b"\x89HDF\r\n\x1a\n" * 20, ("x",), "is no MATLAB file of version 5 to 7 (that -v7 saves)"),
        (header(version=0x200), ("x",), "is no MATLAB file of version 5 to 7 (that -v7 saves)"),
        (sbd()[:-300], ("GTcls", "Segmentation"), "is damaged: an element claims "),
        (
            header() + matrix(9, 2, bytes(5)),
            ("LabelMap",),
            "is damaged: 5 bytes are not the values of LabelMap, of shape (2, 3)",
        ),
        (
            header() + matrix(9, 3, b"\xff\xff" * 6),
            ("LabelMap",),
            "is damaged: LabelMap has values from -1 to -1, not from 0 to 255",
        ),
        (
            header() + element(15, zlib.compress(bytes(1 << 20))),
            ("LabelMap",),
            "is damaged: a variable is cut off, or takes more than 65,536 bytes",
        ),
    ],
)
def test_what_is_not_there_or_no_labels_is_said(
    data: bytes, names: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mat_file, "MAX_BYTES", 1 << 16)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        read_array(data, *names)


@settings(max_examples=500, deadline=None)
@given(
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), max_size=4),
    st.integers(0, 1 << 20),
    st.booleans(),
)
@example(False, [(230, 1)], 0, False)
def test_however_it_is_damaged_it_is_ids_or_a_value_error(
    compressed: bool, flips: list[tuple[int, int]], length: int, cut: bool
) -> None:
    data = bytearray(sbd(compressed))
    for place, bits in flips:
        data[place % len(data)] ^= bits
    try:
        found = read_array(bytes(data[: length % len(data)] if cut else data), "GTcls", "Segmentation")
    except ValueError:
        return
    assert found.dtype == np.uint16
    assert found.size == IDS.size
