"""Calibration against sorting pixels into bins one by one."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.calibration import Calibration, ReliabilityPoint

Pixel = tuple[float, int, int]
"""Confidence, prediction, label."""
PIXELS = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 0.2, 0.25, 0.5, 1.0])),
        st.integers(0, 2),
        st.sampled_from([0, 1, 2, 255]),
    ),
    max_size=40,
)


def tensors(pixels: list[Pixel]) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.tensor([confidence for confidence, _, _ in pixels], dtype=torch.float32),
        torch.tensor([prediction for _, prediction, _ in pixels], dtype=torch.int64),
        torch.tensor([label for _, _, label in pixels], dtype=torch.uint8),
    )


def counted(pixels: list[Pixel], num_bins: int = 15) -> Calibration:
    calibration = Calibration(num_bins)
    calibration.update(*tensors(pixels))
    return calibration


def slow_bins(pixels: list[Pixel], num_bins: int) -> dict[int, list[tuple[float, bool]]]:
    """Bin -> (confidence, whether right) of its pixels, the bins' ends compared as fractions."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for confidence, prediction, label in pixels:
        if label != 255:
            rounded = torch.tensor(confidence).item()
            at = next(m for m in range(1, num_bins + 1) if Fraction(rounded) <= Fraction(m, num_bins))
            bins.setdefault(at - 1, []).append((rounded, prediction == label))
    return bins


@settings(max_examples=150, deadline=None)
@given(PIXELS, st.integers(1, 20))
def test_scores_and_curve_are_those_of_sorting_pixel_by_pixel(pixels: list[Pixel], num_bins: int) -> None:
    calibration, bins = counted(pixels, num_bins), slow_bins(pixels, num_bins)
    total = sum(len(content) for content in bins.values())
    assert calibration.num_pixels.tolist() == [len(bins.get(at, [])) for at in range(num_bins)]
    assert calibration.num_right.tolist() == [sum(right for _, right in bins.get(at, [])) for at in range(num_bins)]
    if not total:
        assert math.isnan(calibration.ece)
        assert math.isnan(calibration.overconfidence)
        assert calibration.curve == []
        return
    curve = []
    for at in sorted(bins):
        confidences, rights = zip(*bins[at], strict=True)
        num_pixels = len(rights)
        curve.append((math.fsum(confidences) / num_pixels, sum(rights) / num_pixels, num_pixels))
    assert [tuple(point) for point in calibration.curve] == [pytest.approx(point) for point in curve]
    ece = math.fsum(number / total * abs(accuracy - confidence) for confidence, accuracy, number in curve)
    signed = math.fsum(number / total * (confidence - accuracy) for confidence, accuracy, number in curve)
    assert calibration.ece == pytest.approx(ece, abs=1e-12)
    assert calibration.overconfidence == pytest.approx(signed, abs=1e-12)
    assert abs(calibration.overconfidence) <= calibration.ece + 1e-12


@settings(max_examples=60, deadline=None)
@given(PIXELS, st.integers(0, 40))
def test_merging_is_counting_all_pixels(pixels: list[Pixel], cut: int) -> None:
    whole, merged = counted(pixels), counted(pixels[:cut])
    merged += counted(pixels[cut:])
    assert merged.num_pixels.tolist() == whole.num_pixels.tolist()
    assert merged.num_right.tolist() == whole.num_right.tolist()
    assert merged.confidence.tolist() == pytest.approx(whole.confidence.tolist(), rel=1e-14)


def test_a_bin_ends_with_its_upper_end() -> None:
    """Guo et al.: bin m holds the confidences in ((m - 1) / M, m / M]."""
    edges = [(0.0, 0, 0), (0.25, 0, 0), (0.26, 0, 0), (0.5, 0, 0), (1.0, 0, 0)]
    assert counted(edges, 4).num_pixels.tolist() == [2, 2, 0, 1]


def test_the_sign_tells_too_sure_from_not_sure_enough() -> None:
    too_sure = counted([(0.9, 0, 0), (0.9, 0, 1)])
    assert (too_sure.ece, too_sure.overconfidence) == (pytest.approx(0.4), pytest.approx(0.4))
    unsure = counted([(0.6, 0, 0), (0.6, 1, 1)])
    assert (unsure.ece, unsure.overconfidence) == (pytest.approx(0.4), pytest.approx(-0.4))
    unsure.merge(too_sure)
    assert (unsure.ece, unsure.overconfidence) == (pytest.approx(0.4), pytest.approx(0, abs=1e-7)), "both ways"


def test_a_model_that_is_right_as_often_as_it_says_has_no_error() -> None:
    calibration = counted([(0.75, 0, label) for label in (0, 0, 0, 1)] + [(0.5, 1, label) for label in (1, 2)])
    assert calibration.ece == 0
    assert calibration.curve == [ReliabilityPoint(0.5, 0.5, 2), ReliabilityPoint(0.75, 0.75, 4)]


def test_sums_are_taken_in_float64() -> None:
    """In float32 a sum of 2**24 ones would not grow any more."""
    calibration = Calibration(1)
    calibration.confidence += 2**24
    calibration.update(torch.ones(3), torch.zeros(3).long(), torch.zeros(3).long())
    assert calibration.confidence.tolist() == [2**24 + 3]
    assert str(calibration.num_pixels.dtype) == "int64"


def test_what_is_ignored_may_have_any_confidence() -> None:
    calibration = Calibration(5)
    shape = (1, 1, 3)
    calibration.update(
        torch.tensor([math.nan, -2, 0.5]).view(shape),
        torch.tensor([0, 0, 7]).view(shape),
        torch.tensor([255, 255, 7], dtype=torch.uint8).view(shape),
    )
    assert (calibration.num_pixels.tolist(), calibration.num_right.tolist()) == ([0, 0, 1, 0, 0], [0, 0, 1, 0, 0])


def test_a_probability_may_be_rounded_to_above_1() -> None:
    calibration = counted([(1.0000005, 0, 0)])
    assert (calibration.num_pixels[-1], calibration.confidence[-1]) == (1, 1)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan, math.inf])
def test_what_is_no_probability_is_refused_and_not_counted(bad: float) -> None:
    calibration = Calibration()
    with pytest.raises(ValueError, match=r"^confidence: \S+ is not in 0\.\.1: give probabilities, e\.g\. "):
        calibration.update(*tensors([(0.5, 0, 0), (bad, 0, 0)]))
    assert calibration.num_pixels.sum() == 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"label are \(1,\), \(2,\), \(2,\): give the same for all"):
        Calibration().update(torch.ones(1), torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match=r"\(num_bins, ignore_index\) is \(10, 255\), not \(15, 255\)"):
        Calibration().merge(Calibration(10))
    with pytest.raises(ValueError, match="num_bins: 0 is too small: give at least 1"):
        Calibration(0)
