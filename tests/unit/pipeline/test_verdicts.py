"""What gates say, word for word, and where they draw the line."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bootstrap import Difference
from pipeline.verdicts import (
    judge_checks,
    judge_classes,
    judge_data,
    judge_gain,
    judge_most,
    judge_protocol,
)


def gain(value: float, low: float, high: float) -> Difference:
    return Difference(value=value, low=low, high=high, level=0.95, better_share=0.9, num_images=100)


@pytest.mark.parametrize(
    ("found", "min_gain", "passed", "text"),
    [
        (gain(0.004, -0.002, 0.01), 0, False,
         "+0.4 points (95 %: -0.2 to +1.0) over the champion: not more than noise"),
        (gain(0.014, 0.008, 0.02), 0, True, "+1.4 points (95 %: +0.8 to +2.0) over the champion: more than noise"),
        (gain(-0.01, -0.02, -0.005), 0, False,
         "-1.0 points (95 %: -2.0 to -0.5) over the champion: worse by more than noise"),
        (gain(0, 0, 0), 0, False, "+0.0 points (95 %: +0.0 to +0.0) over the champion: not more than noise"),
        (gain(0.01, 0.0002, 0.02), 0, True, "+1.00 points (95 %: +0.02 to +2.00) over the champion: more than noise"),
        (gain(0.009, 0.006, 0.012), 0.005, True,
         "+0.9 points (95 %: +0.6 to +1.2) over the champion: +0.6 is above the +0.5 asked for"),
        (gain(0.009, 0.002, 0.016), 0.005, False,
         "+0.9 points (95 %: +0.2 to +1.6) over the champion: +0.2 is not above the +0.5 asked for"),
        (gain(-0.002, -0.006, 0.002), -0.01, True,
         "-0.2 points (95 %: -0.6 to +0.2) over the champion: -0.6 is above the -1.0 asked for"),
    ],
)  # fmt: skip
def test_a_gain_must_be_more_than_noise(found: Difference, min_gain: float, passed: bool, text: str) -> None:
    verdict = judge_gain(found, min_gain)
    assert verdict.text == f"mIoU: {text}"
    assert (verdict.gate, verdict.passed) == ("mIoU", passed)
    assert (verdict.measured, verdict.bound) == (found.low, min_gain)
    assert verdict.margin == pytest.approx(found.low - min_gain)


CLASSES = ("road", "pole", "sign", "fence", "tree", "car")


@pytest.mark.parametrize(
    ("iou", "passed", "text"),
    [
        ([0.9, 0.31, 0.5, 0.5, 0.5, 0.5], True, "no class's IoU fell"),
        ([0.95, 0.31, 0.6, 0.5, 0.5, 0.5], True, "no class's IoU fell"),
        ([0.88, 0.289, 0.6, 0.5, 0.5, 0.5], True,
         "pole's IoU fell most, by 2.1 points (31.0 to 28.9); 5.0 are allowed"),
        ([0.85, 0.31, 0.5, 0.5, 0.5, 0.5], True, "road's IoU fell most, by 5.0 points (90.0 to 85.0); 5.0 are allowed"),
        ([0.9, 0.239, 0.5, 0.5, 0.5, 0.5], False,
         "pole's IoU fell by 7.1 points (31.0 to 23.9), 2.1 more than allowed"),
        ([0.9, 0.2596, 0.5, 0.5, 0.5, 0.5], False,
         "pole's IoU fell by 5.04 points (31.00 to 25.96), 0.04 more than allowed"),
        ([0.9, 0.21, 0.44, 0.46, 0.5, 0.5], False,
         "pole's IoU fell by 10.0 points (31.0 to 21.0), 5.0 more than allowed, sign's by 6.0"),
        ([0.8, 0.2, 0.38, 0.37, 0.41, 0.43], False,
         "fence's IoU fell by 13.0 points (50.0 to 37.0), 8.0 more than allowed, sign's by 12.0, pole's by 11.0, "
         "road's by 10.0, and of 2 more"),
    ],
)  # fmt: skip
def test_no_class_may_fall_by_too_much(iou: list[float], passed: bool, text: str) -> None:
    before = np.array([0.9, 0.31, 0.5, 0.5, 0.5, 0.5])
    verdict = judge_classes(CLASSES, np.array(iou), before, 0.05)
    assert verdict.text == f"classes: {text}"
    assert (verdict.gate, verdict.passed, verdict.bound) == ("classes", passed, 0.05)
    assert verdict.measured == pytest.approx((before - iou).max())
    assert verdict.margin == pytest.approx(0.05 - (before - iou).max())


def test_a_class_outside_the_truth_can_not_fall() -> None:
    verdict = judge_classes(("road", "pole"), np.array([0.8, math.nan]), np.array([0.79, math.nan]), 0)
    assert (verdict.passed, verdict.text) == (True, "classes: no class's IoU fell")


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=6), st.integers(0, 1000))
def test_the_line_is_drawn_at_the_bound(shares: list[tuple[int, int]], bound: int) -> None:
    """In thousandths: whole numbers know nothing of rounding."""
    before, iou = np.array(shares).T / 1000
    verdict = judge_classes(CLASSES[: len(shares)], iou, before, bound / 1000)
    assert verdict.passed == all(old - new <= bound for old, new in shares)


@pytest.mark.parametrize(
    ("value", "most", "passed", "text"),
    [
        (38.0, 40.0, True, "latency: 38.0 ms, and at most 40.0 ms is allowed"),
        (40.0, 40.0, True, "latency: 40.0 ms, and at most 40.0 ms is allowed"),
        (41.2, 40.0, False, "latency: 41.2 ms, 1.2 ms more than allowed"),
        (40.02, 40.0, False, "latency: 40.02 ms, 0.02 ms more than allowed"),
        (None, 40.0, False, "latency: not measured, and at most 40.0 ms is allowed"),
        (math.nan, 40.0, False, "latency: not measured, and at most 40.0 ms is allowed"),
        (math.inf, 40.0, False, "latency: not measured, and at most 40.0 ms is allowed"),
    ],
)
def test_what_is_bounded_must_be_measured_and_within(value: float | None, most: float, passed: bool, text: str) -> None:
    verdict = judge_most("latency", value, most, "ms")
    assert (verdict.text, verdict.passed, verdict.bound) == (text, passed, most)
    measured = value is not None and math.isfinite(value)
    assert verdict.measured == (value if measured else None)
    assert verdict.margin == (pytest.approx(most - value) if measured and value is not None else None)


def test_large_numbers_are_shown_in_millions() -> None:
    verdict = judge_most("parameters", 46_600_000, 40_000_000, "M", 1e6)
    assert verdict.text == "parameters: 46.6 M, 6.6 M more than allowed"
    assert (verdict.measured, verdict.bound, verdict.margin) == (46_600_000, 40_000_000, -6_600_000)


@pytest.mark.parametrize(
    ("digest", "champions", "text"),
    [
        ("a" * 64, "a" * 64, "both on aaaaaaaaaaaa"),
        ("a" * 64, "b" * 64, "on aaaaaaaaaaaa, the champion on bbbbbbbbbbbb: evaluate both on the same data"),
        ("a" * 64, "", "on aaaaaaaaaaaa, the champion on unknown data: evaluate both on the same data"),
        ("", "", "on unknown data, the champion on unknown data: evaluate both on the same data"),
    ],
)
def test_both_are_evaluated_on_the_same_data(digest: str, champions: str, text: str) -> None:
    verdict = judge_data(digest, champions)
    assert verdict.text == f"data: {text}"
    assert verdict.passed == text.startswith("both")
    assert (verdict.measured, verdict.bound, verdict.margin) == (digest, champions, None)


@pytest.mark.parametrize(
    ("champions", "text"),
    [
        ({"split": "val", "scales": (1.0,), "flip": False}, "the champion's"),
        ({"split": "val", "scales": [0.75, 1.0], "flip": True},
         "scales [1.0], the champion's [0.75, 1.0], flip False, the champion's True: evaluate both alike"),
        ({"split": "val", "scales": [1.0], "flip": False, "crop_size": 480},
         "crop_size None, the champion's 480: evaluate both alike"),
    ],
)  # fmt: skip
def test_both_are_evaluated_in_the_same_way(champions: dict[str, object], text: str) -> None:
    verdict = judge_protocol({"split": "val", "scales": [1.0], "flip": False}, champions)
    assert (verdict.gate, verdict.text) == ("protocol", f"protocol: {text}")
    assert verdict.passed == (text == "the champion's")


@pytest.mark.parametrize(
    ("checks", "passed", "text"),
    [
        ({"loads": "", "served": ""}, True, "2 passed"),
        ({"loads": "", "served": "answered other classes", "odd sizes": "63 x 65: failed"}, False,
         "served: answered other classes; odd sizes: 63 x 65: failed"),
        ({}, False, "none was made"),
    ],
)  # fmt: skip
def test_all_checks_must_have_passed(checks: dict[str, str], passed: bool, text: str) -> None:
    verdict = judge_checks(checks)
    assert (verdict.gate, verdict.passed, verdict.text) == ("checks", passed, f"checks: {text}")
