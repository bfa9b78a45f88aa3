"""The boundary F-score against measuring every pair of boundary pixels, and against distance transforms."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from encnet.boundary import BoundaryFScore

NUM_CLASSES = 3


def slow_f_scores(prediction: list[list[int]], label: list[list[int]], tolerance: float) -> list[float]:
    """F-score of each class of one image, 255 ignored: sets of pixels, every pair of them measured in whole numbers."""
    height, width = len(label), len(label[0])
    places = [place for place in product(range(height), range(width)) if label[place[0]][place[1]] != 255]
    reach = Fraction(str(tolerance)) ** 2 * (height**2 + width**2)

    def edge(ids: list[list[int]], class_id: int) -> set[tuple[int, int]]:
        mine = {(row, column) for row, column in places if ids[row][column] == class_id}
        others = set(places) - mine
        return {(r, c) for r, c in mine if others & {(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)}}

    def share(some: set[tuple[int, int]], near: set[tuple[int, int]]) -> float:
        hits = [any((r - y) ** 2 + (c - x) ** 2 <= reach for y, x in near) for r, c in some]
        return sum(hits) / len(hits) if hits else 0.0

    scores = []
    for class_id in range(NUM_CLASSES):
        truth, found = edge(label, class_id), edge(prediction, class_id)
        precision, recall = share(found, truth), share(truth, found)
        total = precision + recall
        scores.append(math.nan if not truth | found else 2 * precision * recall / total if total else 0.0)
    return scores


@st.composite
def pairs(draw: st.DrawFn, ignored: bool = True) -> tuple[Tensor, Tensor]:
    """Prediction and label of one image (H, W) uint8; what is ignored is predicted as anything."""
    size = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    label = generator.integers(0, NUM_CLASSES, size)
    prediction = np.where(generator.random(size) < draw(st.sampled_from([0, 0.2, 1])), (label + 1) % NUM_CLASSES, label)
    if ignored:
        label[generator.random(size) < draw(st.sampled_from([0, 0.2, 0.7]))] = 255
        prediction[label == 255] = generator.integers(0, 256, size)[label == 255]
    return torch.from_numpy(prediction.astype(np.uint8)), torch.from_numpy(label.astype(np.uint8))


def scores_of(prediction: Tensor, label: Tensor, tolerance: float = 0.0075) -> list[float]:
    score = BoundaryFScore(NUM_CLASSES, tolerance=tolerance)
    score.update(prediction, label)
    return score.f_score.tolist()


@settings(max_examples=150, deadline=None)
@given(pairs(), st.sampled_from([0.0, 0.0075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0]))
def test_scores_are_those_of_measuring_every_pair(pair: tuple[Tensor, Tensor], tolerance: float) -> None:
    expected = slow_f_scores(pair[0].tolist(), pair[1].tolist(), tolerance)
    assert scores_of(*pair, tolerance) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("tolerance", [0.0075, 0.02, 0.033])
def test_scores_of_a_larger_image_are_those_of_distance_transforms(tolerance: float) -> None:
    rng = np.random.default_rng(0)
    fields = ndimage.gaussian_filter(rng.normal(size=(2, NUM_CLASSES, 120, 160)), (0, 0, 6, 6))
    label = fields[0].argmax(0)
    prediction = (fields[0] + 0.4 * fields[1]).argmax(0)
    expected = []
    for class_id in range(NUM_CLASSES):
        truth, found = (  # eroded as if the class went on beyond the image, whose border is no boundary
            mask & ~ndimage.binary_erosion(mask, border_value=1) for mask in (label == class_id, prediction == class_id)
        )
        reach = tolerance * 200
        recall = (ndimage.distance_transform_edt(~found)[truth] <= reach).mean()
        precision = (ndimage.distance_transform_edt(~truth)[found] <= reach).mean()
        assert 0.1 < recall < 1
        expected.append(2 * precision * recall / (precision + recall))
    assert scores_of(torch.from_numpy(prediction), torch.from_numpy(label), tolerance) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("size", "tolerance", "shift", "score"),
    [
        ((30, 40), 0.1, 5, 1.0),  # the diagonal is 50: 5 pixels are within tolerance
        ((30, 40), 0.1, 6, 0.0),
        ((360, 480), 0.0075, 4, 1.0),  # the diagonal is 600: 4.5 pixels
        ((360, 480), 0.0075, 5, 0.0),
        ((360, 480), 0.0, 1, 0.0),
    ],
)
def test_an_outline_may_be_off_by_the_tolerance(
    size: tuple[int, int], tolerance: float, shift: int, score: float
) -> None:
    columns = torch.arange(size[1]).expand(size)
    found = scores_of((columns >= 20 + shift).long(), (columns >= 20).long(), tolerance)
    assert found == pytest.approx([score, score, math.nan], nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(pairs(ignored=False), st.sampled_from([0.0075, 0.2]))
def test_truth_and_prediction_may_change_places_and_axes_too(pair: tuple[Tensor, Tensor], tolerance: float) -> None:
    expected = pytest.approx(scores_of(*pair, tolerance), nan_ok=True)
    assert scores_of(pair[1], pair[0], tolerance) == expected
    assert scores_of(pair[0].T, pair[1].T, tolerance) == expected
    assert scores_of(pair[0].flip(1), pair[1].flip(1), tolerance) == expected


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_what_is_right_scores_1_wherever_there_is_a_boundary(pair: tuple[Tensor, Tensor]) -> None:
    assert {score for score in scores_of(pair[1], pair[1]) if not math.isnan(score)} <= {1.0}


@settings(max_examples=60, deadline=None)
@given(pairs(), st.integers(0, 255))
def test_what_is_predicted_at_ignored_pixels_makes_no_difference(pair: tuple[Tensor, Tensor], filling: int) -> None:
    prediction, label = pair
    other = torch.where(label == 255, filling, prediction)
    assert scores_of(other, label) == pytest.approx(scores_of(prediction, label), nan_ok=True)


def test_there_is_no_boundary_to_what_is_ignored_nor_to_the_outside() -> None:
    label = torch.tensor([[0, 0, 255, 1, 1]])
    assert np.isnan(scores_of(label, label)).all()
    assert scores_of(torch.tensor([[0, 1, 1, 1, 1]]), label)[:2] == [0.0, 0.0], "a boundary that is not in the truth"


def test_a_class_counts_in_the_images_where_it_has_a_boundary() -> None:
    halves, whole = torch.tensor([[0, 0, 1, 1]]), torch.zeros(1, 4, dtype=torch.long)
    score = BoundaryFScore(NUM_CLASSES)
    score.update(torch.stack([halves, whole, whole]), torch.stack([halves, halves, whole]))
    assert score.f_score.tolist() == pytest.approx([0.5, 0.5, math.nan], nan_ok=True)
    assert score.num_images.tolist() == [2, 2, 0], "no image has class 2, the third no boundary at all"
    score.update(torch.tensor([[2, 2, 1, 1]]), halves)
    assert score.f_score.tolist() == pytest.approx([1 / 3, 2 / 3, 0])
    assert score.mean_f_score == pytest.approx(1 / 3)
    assert math.isnan(BoundaryFScore(2).mean_f_score)


@settings(max_examples=40, deadline=None)
@given(st.lists(pairs(), max_size=6), st.integers(0, 6))
def test_merging_is_judging_all_images(images: list[tuple[Tensor, Tensor]], cut: int) -> None:
    whole, first, second = (BoundaryFScore(NUM_CLASSES) for _ in range(3))
    for at, pair in enumerate(images):
        whole.update(*pair)
        (first if at < cut else second).update(*pair)
    first += second
    assert first.num_images.tolist() == whole.num_images.tolist()
    assert first.f_score.tolist() == pytest.approx(whole.f_score.tolist(), nan_ok=True)


@pytest.mark.parametrize(
    ("prediction", "label", "message"),
    [
        ([[[0, 1]], [[0, 3]]], [[[0, 1]], [[0, 1]]], r"^prediction: id 3 is not in 0\.\.2: map ids to train ids$"),
        ([[0, 1]], [[0, -1]], r"^label: id -1 is not in 0\.\.2"),
        ([[0, 1]], [[0], [1]], r"^prediction, label: shapes \(1, 2\) and \(2, 1\): give class ids of one shape"),
        ([0, 1], [0, 1], r"shapes \(2,\) and \(2,\)"),
    ],
)
def test_what_is_no_class_map_is_refused_and_not_counted(prediction: list[int], label: list[int], message: str) -> None:
    score = BoundaryFScore(NUM_CLASSES)
    with pytest.raises(ValueError, match=message):
        score.update(torch.tensor(prediction), torch.tensor(label))
    assert score.num_images.sum() == 0


def test_what_can_not_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="num_classes: 0 is too small"):
        BoundaryFScore(0)
    with pytest.raises(ValueError, match=r"tolerance: 3 is out of range: give a share of the diagonal, e\.g\. 0\.0075"):
        BoundaryFScore(2, tolerance=3)
    with pytest.raises(ValueError, match=r"tolerance\) is \(3, 255, 0\.0075\), not \(2, 255, 0\.0075\)"):
        BoundaryFScore(2).merge(BoundaryFScore(3))
