"""The finished chunks of an evaluation, kept until it is logged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluation_chunks import KeptChunks
from tests.unit.pipeline.made_up_tally import made_up_tally


def test_chunks_are_kept_until_they_are_forgotten(tmp_path: Path) -> None:
    chunks = KeptChunks("key", 3, str(tmp_path))
    assert chunks.read() == {}
    chunks.keep(2, made_up_tally([4, 5]))
    chunks.keep(0, made_up_tally([0, 1]))
    found = KeptChunks("key", 3, str(tmp_path)).read()
    assert {chunk: tally.sample_ids.tolist() for chunk, tally in found.items()} == {0: [0, 1], 2: [4, 5]}
    assert np.array_equal(found[2].counts, made_up_tally([4, 5]).counts)
    assert KeptChunks("other", 3, str(tmp_path)).read() == {}
    assert KeptChunks("key", 4, str(tmp_path)).read() == {}, "of a split that is cut in another way"
    chunks.forget()
    assert chunks.read() == {}
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_damaged_chunk_is_counted_again(tmp_path: Path) -> None:
    chunks = KeptChunks("key", 2, str(tmp_path))
    chunks.keep(0, made_up_tally([0]))
    chunks.keep(1, made_up_tally([1]))
    (file,) = tmp_path.rglob("000001-of-000002.npz")
    file.write_bytes(file.read_bytes()[:-30])
    assert list(chunks.read()) == [0]
    assert not file.exists()


def test_without_a_storage_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ENCNET_STORAGE", raising=False)
    chunks = KeptChunks("key", 1)
    chunks.keep(0, made_up_tally([0]))
    assert chunks.read() == {}
    chunks.forget()
    monkeypatch.setenv("ENCNET_STORAGE", str(tmp_path))
    KeptChunks("key", 1).keep(0, made_up_tally([0]))
    assert (tmp_path / "evaluations/key/000000-of-000001.npz").exists()
