"""The confusion matrix and its scores against counting pixel by pixel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from encnet import ConfusionMatrix
from tests.unit.encnet.ranks import Ranks

IDS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 2, 3, 255])), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(IDS)
def test_scores_are_those_of_counting(pixels: list[tuple[int, int]]) -> None:
    matrix = ConfusionMatrix(4)
    matrix.update(torch.tensor([p for p, _ in pixels]), torch.tensor([t for _, t in pixels], dtype=torch.uint8))
    valid = [(p, t) for p, t in pixels if t != 255]
    ious: list[float] = []
    for c in range(4):
        inter = sum(p == t == c for p, t in valid)
        union = sum(c in (p, t) for p, t in valid)
        ious.append(inter / union if union else math.nan)
    present = sorted({t for _, t in valid})
    either = sorted({c for pair in valid for c in pair})
    assert matrix.iou.tolist() == pytest.approx(ious, nan_ok=True)
    assert matrix.num_absent == 4 - len(present)
    if not valid:
        assert all(math.isnan(x) for x in (matrix.pix_acc, matrix.mean_iou, matrix.freq_weighted_iou, matrix.score))
        return
    assert matrix.pix_acc == pytest.approx(sum(p == t for p, t in valid) / len(valid))
    assert matrix.mean_iou == pytest.approx(sum(ious[c] for c in present) / len(present))
    assert matrix.freq_weighted_iou == pytest.approx(sum(ious[t] for _, t in valid) / len(valid))
    assert matrix.score == pytest.approx((matrix.pix_acc + matrix.mean_iou) / 2)
    matrix.count_absent = True
    assert matrix.mean_iou == pytest.approx(sum(ious[c] for c in either) / len(either))


def counted(prediction: np.ndarray, label: np.ndarray, num_classes: int, ignore: int) -> np.ndarray:
    """The confusion matrix, pixel by pixel."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for predicted, truth in zip(prediction.ravel().tolist(), label.ravel().tolist(), strict=True):
        if truth != ignore:
            matrix[truth, predicted] += 1
    return matrix


@st.composite
def maps(draw: st.DrawFn) -> tuple[int, int, Tensor, Tensor]:
    """Number of classes, ignored id, and (B, H, W) predictions and labels; every id fits the dtypes."""
    dtypes = st.sampled_from([torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
    kind, label_kind = draw(dtypes), draw(dtypes)
    most = min(torch.iinfo(kind).max, torch.iinfo(label_kind).max)
    num_classes = min(
        draw(st.one_of(st.integers(1, 6), st.sampled_from([126, 127, 128, 253, 254, 255, 256, 300]))), most + 1
    )
    ignore = draw(st.sampled_from([0, num_classes - 1, min(num_classes, most), min(255, most)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    shape = draw(st.sampled_from([(1, 1, 1), (2, 3, 5), (3, 0, 4), (2, 20, 20)]))
    prediction, label = torch.randint(0, num_classes, (2, *shape), generator=generator)
    label[torch.rand(shape, generator=generator) < draw(st.sampled_from([0, 0.3, 1]))] = ignore
    return num_classes, ignore, prediction.to(kind), label.to(label_kind)


@settings(max_examples=150, deadline=None)
@given(maps(), st.integers(0, 3))
def test_counts_are_those_of_a_loop_and_merging_is_counting_the_whole(
    drawn: tuple[int, int, Tensor, Tensor], cut: int
) -> None:
    num_classes, ignore, prediction, label = drawn
    first, second = (ConfusionMatrix(num_classes, ignore_index=ignore) for _ in range(2))
    first.update(prediction[:cut], label[:cut])
    second.update(prediction[cut:], label[cut:])
    expected = counted(prediction.numpy(), label.numpy(), num_classes, ignore)
    assert np.array_equal(first.merge(second).matrix.numpy(), expected)
    assert first.num_absent == (expected.sum(1) == 0).sum()


@settings(max_examples=60, deadline=None)
@given(maps(), st.data())
def test_an_id_out_of_range_is_found_wherever_it_is(
    drawn: tuple[int, int, Tensor, Tensor], data: st.DataObject
) -> None:
    num_classes, ignore, prediction, label = drawn
    name, ids = data.draw(st.sampled_from([("prediction", prediction), ("label", label)]))
    limits = torch.iinfo(ids.dtype)
    bad = data.draw(st.integers(limits.min, limits.max).filter(lambda i: not 0 <= i < num_classes and i != ignore))
    place = data.draw(st.integers(0, max(0, ids.numel() - 1)))
    matrix = ConfusionMatrix(num_classes, ignore_index=ignore)
    if not ids.numel():
        return
    ids.view(-1)[place] = bad
    if label.view(-1)[place] == ignore:
        matrix.update(prediction, label)
        return
    with pytest.raises(ValueError, match=f"{name}: id {bad} is not in 0..{num_classes - 1}: map ids to train ids"):
        matrix.update(prediction, label)
    assert matrix.matrix.sum() == 0


def test_two_definitions_of_the_mean_over_60_classes() -> None:
    """PASCAL-Context: with a background that was learnt, and with one that a model of 59 classes can't know."""
    matrix = ConfusionMatrix(4)
    matrix.matrix = torch.tensor([[8, 2, 0, 0], [0, 5, 0, 0], [0, 0, 0, 0], [0, 1, 0, 3]])
    ious = [0.8, 5 / 8, 3 / 4]
    assert matrix.mean_iou == pytest.approx(sum(ious) / 3)
    assert matrix.mean_iou_of(range(1, 4)) == pytest.approx(sum(ious[1:]) / 2)
    assert matrix.mean_iou_with_background == pytest.approx(sum(ious) / 4)
    assert math.isnan(matrix.mean_iou_of([2]))
    assert math.isnan(ConfusionMatrix(3).mean_iou_with_background)
    with pytest.raises(ValueError, match=r"classes: -1 is not a class: give ids in 0\.\.3"):
        matrix.mean_iou_of([1, -1])


def test_rows_are_the_truth() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([[1, 1], [0, 2]]), torch.tensor([[0, 0], [0, 255]]))
    assert matrix.matrix.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 0]]
    assert matrix.matrix.dtype == torch.int64


def test_matrices_add_up_in_place() -> None:
    prediction, label = torch.randint(0, 5, (2, 4, 6, 7))
    whole, first, second = ConfusionMatrix(5), ConfusionMatrix(5), ConfusionMatrix(5)
    whole.update(prediction, label)
    first.update(prediction[:1], label[:1])
    first.update(prediction[1:3], label[1:3])
    second.update(prediction[3:], label[3:])
    first += second
    assert torch.equal(first.matrix, whole.matrix)


def test_an_ignored_id_that_does_not_fit_the_labels_is_not_wrapped() -> None:
    """255 is -1 in eight bits, but it isn't the ignored id -1."""
    matrix = ConfusionMatrix(2, ignore_index=-1)
    with pytest.raises(ValueError, match=r"label: id 255 is not in 0..1"):
        matrix.update(torch.tensor([0, 1]), torch.tensor([0, 255], dtype=torch.uint8))


def test_what_is_ignored_may_be_predicted_as_anything() -> None:
    matrix = ConfusionMatrix(2, ignore_index=-1)
    matrix.update(torch.tensor([255, 1]), torch.tensor([-1, 1]))
    assert matrix.matrix.tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("prediction", "label", "message"),
    [
        ([0, 3], [0, 1], r"prediction: id 3 is not in 0..2: map ids to train ids, or to 255"),
        ([0, 1], [0, 3], r"label: id 3 is not in 0..2"),
        ([0, 1], [0, -1], r"label: id -1 is not in 0..2"),
        ([0], [0, 1], r"prediction: shape \(1,\) differs from the label's \(2,\)"),
        ([0.0, 1.0], [0, 1], r"prediction: dtype torch.float32 holds no class ids: give integers, e.g. logits.argmax"),
        ([0, 1], [False, True], r"label: dtype torch.bool holds no class ids"),
    ],
)
def test_bad_ids_are_refused_and_not_counted(prediction: list[Any], label: list[Any], message: str) -> None:
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=message):
        matrix.update(torch.tensor(prediction), torch.tensor(label))
    assert matrix.matrix.sum() == 0


def test_only_like_matrices_merge() -> None:
    with pytest.raises(ValueError, match=r"\(num_classes, ignore_index\) is \(4, 255\), not \(3, 255\)"):
        ConfusionMatrix(3).merge(ConfusionMatrix(4))
    with pytest.raises(ValueError, match="num_classes: 0 is too small"):
        ConfusionMatrix(0)


def _reduce_rank(rank: int) -> Tensor:
    matrix = ConfusionMatrix(4)
    if rank > 0:
        matrix.update(torch.tensor([rank, 0]), torch.tensor([rank, 1]))
    return matrix.reduce().matrix


def test_ranks_add_up(ranks: Ranks) -> None:
    expected = ConfusionMatrix(4)
    for rank in range(1, ranks.size):
        expected.update(torch.tensor([rank, 0]), torch.tensor([rank, 1]))
    assert all(torch.equal(matrix, expected.matrix) for matrix in ranks.run(_reduce_rank))


def test_alone_there_is_nothing_to_reduce() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([1]), torch.tensor([1]))
    assert matrix.reduce().matrix.tolist() == [[0, 0], [0, 1]]
