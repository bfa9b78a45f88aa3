"""What workers count, joined to what one of them would have, and stored without pickle."""

from __future__ import annotations

import dataclasses
import io
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encnet import ConfusionMatrix
from pipeline.bootstrap import Counts
from pipeline.errors import PipelineError
from pipeline.evaluation_tally import Tally, from_npz, join_tallies, to_npz, worst_samples
from tests.unit.pipeline.made_up_tally import made_up_tally

FIELDS = [field.name for field in dataclasses.fields(Tally)]


def assert_same(first: Tally, second: Tally) -> None:
    for name in FIELDS:
        mine, its = getattr(first, name), getattr(second, name)
        assert (mine.dtype.kind, mine.shape) == (its.dtype.kind, its.shape), name
        if mine.dtype.kind == "f":  # of which sums in another order differ
            np.testing.assert_allclose(mine, its, rtol=1e-12)
        else:
            np.testing.assert_array_equal(mine, its)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(7)), st.sets(st.integers(1, 6)))
def test_shares_in_any_order_are_joined_to_the_whole(order: list[int], cuts: set[int]) -> None:
    bounds = [0, *sorted(cuts), 7]
    parts = [made_up_tally(order[first:stop]) for first, stop in pairwise(bounds)]
    joined = join_tallies(parts, 7)
    whole = made_up_tally(list(range(7)))
    assert_same(dataclasses.replace(joined, times_ms=np.sort(joined.times_ms)), whole)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([[0, 1], [3]], "evaluation saw 3 samples, 3 different, of 4"),
        ([[0, 1], [1, 2, 3]], "evaluation saw 5 samples, 4 different, of 4"),
        ([[0, 1], [1, 3]], "evaluation saw 4 samples, 3 different, of 4"),
        ([[0, 1], [2, 4]], "evaluation saw 4 samples, 4 different, of 4"),
    ],
)
def test_a_sample_that_is_missing_or_there_twice_is_an_error(shares: list[list[int]], message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        join_tallies([made_up_tally(share) for share in shares], 4)
    assert str(caught.value) == message


def test_scores_are_read_from_what_was_counted() -> None:
    tally = join_tallies([made_up_tally([0, 2, 4]), made_up_tally([1, 3])], 5)
    whole = ConfusionMatrix(3)
    for one in tally.counts:
        hits, extra, missed = one
        assert hits.sum() + missed.sum() == hits.sum() + extra.sum()
    hits, extra, missed = tally.counts.sum(0)
    iou = hits / (hits + extra + missed)
    assert tally.confusion.iou.tolist() == pytest.approx(iou.tolist())
    assert tally.confusion.mean_iou == pytest.approx(iou.mean())
    assert tally.boundary.f_score.tolist() == pytest.approx((tally.boundary_total / tally.boundary_images).tolist())
    pixels, right, confidence = tally.reliability
    assert tally.calibration.ece == pytest.approx(np.abs(confidence - right).sum() / pixels.sum())
    assert tally.calibration.num_right.sum() == hits.sum()
    assert (tally.latency_ms, tally.memory_bytes) == (12.0, None)
    measured = dataclasses.replace(tally, times_ms=np.zeros(0), peak_bytes=np.array([7, 9]))
    assert (measured.latency_ms, measured.memory_bytes) == (None, 9)
    whole.matrix += 1
    assert tally.confusion.matrix.sum() == tally.matrix.sum()


def test_a_tally_can_be_stored_and_loaded() -> None:
    for tally in (made_up_tally([3, 1]), made_up_tally([]), made_up_tally([4, 0], num_classes=300)):
        assert_same(from_npz(to_npz(tally)), tally)


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stubs take the names for allow_pickle
    return file.getvalue()


def test_what_is_no_tally_is_refused_and_none_of_its_code_run() -> None:
    whole = to_npz(made_up_tally([0, 1]))
    arrays = {name: getattr(made_up_tally([0, 1]), name) for name in FIELDS}

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return pytest.fail, ("code from storage was run",)

    pickled = npz(**{**arrays, "devices": np.array([Bomb()], object)})
    for data in (
        b"",
        b"PK no zip",
        whole[:-40],
        whole[:200] + b"\x00" * 80 + whole[280:],
        npz(counts=np.zeros(3)),
        pickled,
    ):
        with pytest.raises(ValueError, match="holds no counts of an evaluation: "):
            from_npz(data)
    with pytest.raises(ValueError, match="holds counts whose shapes do not fit"):
        from_npz(npz(**{**arrays, "counts": np.zeros((2, 3, 4), np.int64)}))


def slow_miou(one: np.ndarray) -> float:
    scores = [hit / (hit + extra + missed) for hit, extra, missed in one.T.tolist() if hit + missed]
    return sum(scores) / len(scores) if scores else math.nan


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(0, 15))
def test_the_worst_have_the_lowest_miou_over_the_classes_in_their_own_truth(seed: int, num: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    counts: Counts = rng.integers(0, 3, (num, 3, 4))
    scores = [slow_miou(one) for one in counts]
    expected = sorted((score, at) for at, score in enumerate(scores) if not math.isnan(score))[:most]
    found = worst_samples(counts, most)
    assert [at for at, _ in found] == [at for _, at in expected]
    assert [score for _, score in found] == pytest.approx([score for score, _ in expected])
