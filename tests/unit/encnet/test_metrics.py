"""The confusion matrix and its scores against counting pixel by pixel."""

from __future__ import annotations

import math

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


def test_rows_are_the_truth() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([[1, 1], [0, 2]]), torch.tensor([[0, 0], [0, 255]]))
    assert matrix.matrix.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 0]]
    assert matrix.matrix.dtype == torch.int64


def test_batches_add_up_and_matrices_merge() -> None:
    prediction, label = torch.randint(0, 5, (4, 6, 7)), torch.randint(0, 5, (4, 6, 7), dtype=torch.uint8)
    whole, first, second = ConfusionMatrix(5), ConfusionMatrix(5), ConfusionMatrix(5)
    whole.update(prediction, label)
    first.update(prediction[:1], label[:1])
    first.update(prediction[1:3], label[1:3])
    second.update(prediction[3:], label[3:])
    first += second
    assert torch.equal(first.matrix, whole.matrix)
    assert whole.matrix.sum() == label.numel()


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
    ],
)
def test_bad_ids_are_refused_and_not_counted(prediction: list[int], label: list[int], message: str) -> None:
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
    matrix = ConfusionMatrix(3)
    if rank > 0:
        matrix.update(torch.tensor([rank, 0]), torch.tensor([rank, 1]))
    return matrix.reduce().matrix


def test_ranks_add_up(ranks: Ranks) -> None:
    expected = ConfusionMatrix(3)
    for rank in range(1, ranks.size):
        expected.update(torch.tensor([rank, 0]), torch.tensor([rank, 1]))
    assert all(torch.equal(matrix, expected.matrix) for matrix in ranks.run(_reduce_rank))


def test_alone_there_is_nothing_to_reduce() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([1]), torch.tensor([1]))
    assert matrix.reduce().matrix.tolist() == [[0, 0], [0, 1]]
