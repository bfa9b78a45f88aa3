"""The paired bootstrap against confusion matrices added up draw by draw, all possible draws, and simulated truth."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encnet import ConfusionMatrix
from pipeline import bootstrap
from pipeline.bootstrap import Counts, class_counts, class_iou, compare, mean_iou

Matrices = np.ndarray
"""(N, C, C) int64: an image's confusion matrix each."""


def two_models(num_images: int, num_classes: int, seed: int, better: float = 0.1) -> tuple[Matrices, Matrices]:
    """Confusion matrices of two models on the same made-up images, of which the second is more often right."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, num_classes, (num_images, 50)) * rng.integers(0, 2, (num_images, 1))
    noise = rng.integers(0, num_classes, label.shape)
    luck = rng.random(label.shape) + rng.normal(0, 0.1, (num_images, 1))
    return tuple(  # type: ignore[return-value]
        np.stack(
            [matrix(*image, num_classes) for image in zip(label, np.where(luck < right, label, noise), strict=True)]
        )
        for right in (0.6, 0.6 + better)
    )


def matrix(label: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (label, prediction), 1)
    return counts


def slow_mean_iou(matrices: Matrices) -> float:
    """Of the sum of confusion matrices (N, C, C)."""
    whole = ConfusionMatrix(matrices.shape[-1])
    for one in matrices:
        whole.matrix += torch.from_numpy(one)
    return whole.mean_iou


def of(pair: tuple[Matrices, Matrices], **options: Any) -> bootstrap.Difference:
    return compare(class_counts(pair[0]), class_counts(pair[1]), **options)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32), st.sampled_from([0, 1, 5]))
def test_counts_hold_all_that_iou_needs(num_images: int, num_classes: int, seed: int, most: int) -> None:
    matrices = np.random.default_rng(seed).integers(0, most + 1, (num_images, num_classes, num_classes))
    counts = class_counts(matrices)
    assert (counts.shape, counts.dtype) == ((num_images, 3, num_classes), np.int64)
    for at, of_class in product(range(num_images), range(num_classes)):
        one = matrices[at].tolist()
        rows, hits = range(num_classes), one[of_class][of_class]
        extra = sum(one[row][of_class] for row in rows if row != of_class)
        missed = sum(one[of_class][column] for column in rows if column != of_class)
        assert counts[at, :, of_class].tolist() == [hits, extra, missed]
    assert mean_iou(counts).tolist() == pytest.approx([slow_mean_iou(one[None]) for one in matrices], nan_ok=True)
    assert float(mean_iou(counts.sum(0))) == pytest.approx(slow_mean_iou(matrices), nan_ok=True)


def test_a_class_outside_the_truth_has_no_iou() -> None:
    """Class 1 is only predicted, class 2 not even that."""
    assert class_iou(class_counts(np.array([[6, 2, 0], [0, 0, 0], [0, 0, 0]]))).tolist() == pytest.approx(
        [0.75, math.nan, math.nan], nan_ok=True
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_the_interval_is_that_of_adding_up_drawn_matrices(seed: int) -> None:
    first, second = two_models(12, 4, seed)
    found = of((first, second), num_resamples=300, level=0.9, seed=7)
    order = sorted(
        range(12), key=lambda image: np.stack(list(map(class_counts, (first[image], second[image])))).tobytes()
    )
    rng = np.random.default_rng(7)
    differences = []
    for _ in range(300):
        drawn = [order[at] for at in rng.integers(12, size=12)]
        differences.append(slow_mean_iou(second[drawn]) - slow_mean_iou(first[drawn]))
    assert found.value == pytest.approx(slow_mean_iou(second) - slow_mean_iou(first), abs=1e-12)
    assert [found.low, found.high] == pytest.approx(np.quantile(differences, [0.05, 0.95]).tolist(), abs=1e-12)
    assert found.better_share == np.mean(np.array(differences) > 0)
    assert (found.level, found.num_images) == (0.9, 12)


def test_resamples_are_spread_as_all_possible_draws_are() -> None:
    """Four images can be drawn in 256 ways, all of them as probable."""
    first, second = two_models(4, 2, seed=5, better=0.03)
    possible = [
        slow_mean_iou(second[list(drawn)]) - slow_mean_iou(first[list(drawn)]) for drawn in product(range(4), repeat=4)
    ]
    better = float(np.mean(np.array(possible) > 0))
    assert 0.05 < better < 0.95, "or the test would show nothing"
    found = of((first, second), num_resamples=20_000)
    assert found.better_share == pytest.approx(better, abs=0.015)
    assert np.quantile(possible, 0.015) <= found.low <= np.quantile(possible, 0.035)
    assert np.quantile(possible, 0.965) <= found.high <= np.quantile(possible, 0.985)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 20), st.integers(1, 4), st.integers(0, 2**32))
def test_a_model_is_no_better_than_itself(num_images: int, num_classes: int, seed: int) -> None:
    first, _ = two_models(num_images, num_classes, seed)
    found = of((first, first), num_resamples=50)
    assert (found.value, found.low, found.high, found.better_share) == (0, 0, 0, 0)


def test_models_that_differ_by_chance_alone_have_an_interval_around_0() -> None:
    first, second = two_models(200, 3, seed=1)
    swapped = np.random.default_rng(2).random((200, 1, 1)) < 0.5
    found = of((np.where(swapped, first, second), np.where(swapped, second, first)))
    assert found.low < 0 < found.high


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 15), st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_the_order_of_images_makes_no_difference(num_images: int, seed: int, random: Any) -> None:
    first, second = two_models(num_images, 3, seed)
    order = list(range(num_images))
    random.shuffle(order)
    assert of((first, second), num_resamples=50) == of((first[order], second[order]), num_resamples=50)


def test_nor_does_how_many_are_resampled_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = two_models(11, 3, seed=3)
    whole = of(pair, num_resamples=101)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 7 * 11)
    assert of(pair, num_resamples=101) == whole
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 1)
    assert of(pair, num_resamples=101) == whole
    assert of(pair, num_resamples=101, seed=1) != whole


def test_an_image_without_a_labelled_pixel_makes_no_difference() -> None:
    first, second = two_models(9, 3, seed=4)
    nothing = np.zeros((3, 3, 3), np.int64)
    more = np.concatenate([nothing, first]), np.concatenate([nothing, second])
    assert of(more, num_resamples=50) == of((first, second), num_resamples=50)


@pytest.mark.parametrize("better", [0.0, 0.05])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(better: float) -> None:
    """The truth is what 40,000 images of the same making show."""

    def draw(num_images: int, seed: int) -> tuple[Counts, Counts]:
        """Two classes; images differ in how hard they are, and the models in what they make of each."""
        rng = np.random.default_rng(seed)
        size = rng.integers(20, 200, (num_images, 2))
        hard = rng.beta(2, 5, (num_images, 1))
        counts = []
        for gain in (0.0, better):
            rate = np.clip(hard + rng.normal(0, 0.1, (num_images, 2)) - gain, 0.01, 0.99)
            missed = rng.binomial(size, rate)
            counts.append(np.stack([size - missed, missed[:, ::-1], missed], 1))
        return counts[0], counts[1]

    many = draw(40_000, seed=0)
    truth = float(mean_iou(many[1].sum(0)) - mean_iou(many[0].sum(0)))
    found = [compare(*draw(80, seed), num_resamples=400) for seed in range(1, 401)]
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.91 <= covered <= 0.975, "400 intervals of 95 %: a standard deviation is 1.1 %"
    surely_better = np.mean([one.low > 0 for one in found])
    assert surely_better <= 0.05 if better == 0 else surely_better >= 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda counts: counts[:, :, :2], r"^counts: shapes \(5, 3, 3\) and \(5, 3, 2\): give \(N, 3, C\) of the same"),
        (lambda counts: counts[:4], r"^counts: shapes \(5, 3, 3\) and \(4, 3, 3\)"),
        (
            lambda counts: counts[::-1],
            r"^counts: the truth of \d of 5 images differs: give the same images in one order",
        ),
    ],
)
def test_models_are_compared_on_the_same_images_only(change: Any, message: str) -> None:
    counts = class_counts(two_models(5, 3, seed=6)[0])
    with pytest.raises(ValueError, match=message):
        compare(counts, change(counts))


def test_one_image_tells_nothing_of_noise() -> None:
    counts = class_counts(two_models(1, 3, seed=6)[0])
    with pytest.raises(ValueError, match="images: 1 with labelled pixels are too few to compare on: give at least 2"):
        compare(np.concatenate([counts, 0 * counts]), np.concatenate([counts, 0 * counts]))
