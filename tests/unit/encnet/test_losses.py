"""The losses against their definitions, and as sums over ranks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from encnet import SegmentationLoss, SegmentationOutput, batch_totals
from encnet.losses import classes_present
from tests.unit.encnet.ranks import Ranks

NUM_CLASSES = 4
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 0.0], dtype=torch.float64)


def output_of(batch: int, seed: int, branches: int = 1, size: tuple[int, int] = (5, 6)) -> SegmentationOutput:
    generator = torch.Generator().manual_seed(seed)
    logits, aux = (
        torch.randn(batch, NUM_CLASSES, *size, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(2)
    )
    shape = (batch, NUM_CLASSES) if branches == 1 else (batch, branches, NUM_CLASSES)
    se = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    return SegmentationOutput(logits, aux, se)


def labels_of(batch: int, seed: int, size: tuple[int, int] = (5, 6)) -> Tensor:
    """Ids of a few classes, so that some are absent, and ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 3, (batch, *size), generator=generator, dtype=torch.uint8)
    return ids.masked_fill(torch.rand(batch, *size, generator=generator) < 0.3, 255)


def cross_entropy(logits: Tensor, labels: Tensor, weights: list[float]) -> float:
    """sum(w_y * nll) / sum(w_y), pixel by pixel."""
    numerator = denominator = 0.0
    for b, y, x in labels.long().ne(-1).nonzero().tolist():
        label = int(labels[b, y, x])
        if label != 255:
            scores = logits[b, :, y, x].tolist()
            nll = math.log(sum(math.exp(score) for score in scores)) - scores[label]
            numerator += weights[label] * nll
            denominator += weights[label]
    return numerator / denominator if denominator else 0.0


def presence_loss(se_logits: Tensor, labels: Tensor) -> float:
    """Mean binary cross-entropy over images and classes, logit by logit."""
    terms = []
    for logits, label in zip(se_logits.tolist(), labels.tolist(), strict=True):
        present = {pixel for row in label for pixel in row}
        for index, logit in enumerate(logits):
            p = 1 / (1 + math.exp(-logit))
            terms.append(-math.log(p if index in present else 1 - p))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_matches_the_definitions(weights: Tensor | None) -> None:
    output, labels = output_of(3, seed=1), labels_of(3, seed=2)
    parts = SegmentationLoss(aux_weight=0.4, se_weight=0.3, class_weights=weights)(output, labels)
    listed = [1.0] * NUM_CLASSES if weights is None else weights.tolist()
    assert output.aux_logits is not None
    assert output.se_logits is not None
    assert parts.pixel.item() == pytest.approx(cross_entropy(output.logits, labels, listed))
    assert parts.aux.item() == pytest.approx(cross_entropy(output.aux_logits, labels, listed))
    assert parts.se.item() == pytest.approx(presence_loss(output.se_logits, labels))
    assert parts.total.item() == pytest.approx((parts.pixel + 0.4 * parts.aux + 0.3 * parts.se).item())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**31), st.booleans())
def test_matches_the_definitions_for_all_masks(batch: int, height: int, width: int, seed: int, wide: bool) -> None:
    size = (height, width)
    output, labels = output_of(batch, seed, size=size), labels_of(batch, seed + 1, size=size)
    parts = SegmentationLoss()(output, labels.long() if wide else labels)
    assert output.se_logits is not None
    assert parts.pixel.item() == pytest.approx(cross_entropy(output.logits, labels, [1.0] * NUM_CLASSES))
    assert parts.se.item() == pytest.approx(presence_loss(output.se_logits, labels))


def test_two_branches_add_up() -> None:
    output, labels = output_of(2, seed=3, branches=2), labels_of(2, seed=4)
    assert output.se_logits is not None
    expected = sum(presence_loss(output.se_logits[:, branch], labels) for branch in range(2))
    assert SegmentationLoss()(output, labels).se.item() == pytest.approx(expected)


def test_absent_heads_cost_nothing() -> None:
    output = output_of(2, seed=5)._replace(aux_logits=None, se_logits=None)
    parts = SegmentationLoss()(output, labels_of(2, seed=6))
    assert (parts.aux.item(), parts.se.item()) == (0, 0)
    assert parts.total.item() == parts.pixel.item() > 0


@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_nothing_valid_costs_nothing_and_has_a_graph(batch: int, weights: Tensor | None) -> None:
    output = output_of(batch, seed=7)
    labels = torch.full((batch, 5, 6), 255, dtype=torch.uint8)
    parts = SegmentationLoss(class_weights=weights)(output, labels)
    assert (parts.pixel.item(), parts.aux.item()) == (0, 0)
    assert parts.total.isfinite()
    parts.total.backward()
    for logits in output:
        assert logits is not None
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits = torch.randn(2, NUM_CLASSES, 64, 64)
    labels = labels_of(2, seed=8, size=(64, 64))
    loss = SegmentationLoss()
    half = loss(SegmentationOutput(logits.half(), None, None), labels).total
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss(SegmentationOutput(logits.half().float(), None, None), labels).total)


def test_classes_present_leaves_ignored_pixels_out() -> None:
    labels = torch.tensor([[[0, 255], [2, 2]], [[255, 255], [255, 255]]], dtype=torch.uint8)
    assert classes_present(labels, 3).tolist() == [[True, False, True], [False, False, False]]
    assert classes_present(labels.long(), 300).sum(dim=1).tolist() == [2, 0]


def test_totals_count_pixels_weights_and_images() -> None:
    labels = torch.tensor([[[0, 1, 2]], [[2, 255, 255]]], dtype=torch.uint8)
    assert [total.item() for total in batch_totals(labels)] == [4, 2]
    assert [total.item() for total in batch_totals(labels, WEIGHTS)] == [0.5 + 1 + 2 + 2, 2]
    assert [total.item() for total in batch_totals(labels[:0])] == [0, 0]


def test_another_id_can_be_ignored() -> None:
    output = output_of(1, seed=9)
    labels = labels_of(1, seed=10)
    renamed = torch.where(labels == 255, -1, labels.long())
    expected = SegmentationLoss()(output, labels).total
    assert SegmentationLoss(ignore_index=-1)(output, renamed).total.item() == pytest.approx(expected.item())


def test_ids_of_a_byte_are_not_taken_for_negative_ones() -> None:
    """-100, torch's own number for what is ignored, is 156 modulo 256."""
    logits = torch.randn(1, 200, 8, 8)
    labels = torch.full((1, 8, 8), 156, dtype=torch.uint8)
    for size in ((8, 8), (4, 4)):
        output = SegmentationOutput(logits[..., : size[0], : size[1]], None, None)
        loss = SegmentationLoss(ignore_index=-100)
        parts = loss(output, labels)
        assert parts.pixel.item() > 0
        assert torch.equal(parts.pixel, loss(output, labels.long()).pixel)
    assert batch_totals(labels, ignore_index=-100).weight == 64


def test_says_what_is_wrong() -> None:
    output, labels = output_of(1, seed=11), labels_of(1, seed=12)
    labels[0, 1, 1] = 9
    with pytest.raises(ValueError, match=r"labels: id 9 is not in 0..3 nor the ignored 255: map the labels"):
        SegmentationLoss()(output, labels)
    with pytest.raises(ValueError, match=r"labels: id 9 is not in 0..3"):
        batch_totals(labels, WEIGHTS)
    with pytest.raises(ValueError, match=r"labels: id -3 is not in 0..3"):
        SegmentationLoss()(output, labels.long().where(labels != 9, -3))
    with pytest.raises(ValueError, match=r"labels: shape \(1, 5, 5\) does not fit logits of shape \(1, 4, 5, 6\)"):
        SegmentationLoss()(output, labels[:, :, 1:])
    with pytest.raises(ValueError, match=r"labels: dtype torch.float32 holds no class ids"):
        SegmentationLoss()(output, labels.float())
    with pytest.raises(ValueError, match="se_weight: -1: give a finite number of at least 0"):
        SegmentationLoss(se_weight=-1)
    with pytest.raises(ValueError, match="class_weights: 3 of them: give one for each of 4"):
        SegmentationLoss(class_weights=WEIGHTS[:3])(output, labels)
    with pytest.raises(ValueError, match="give finite numbers of at least 0"):
        SegmentationLoss(class_weights=-WEIGHTS)


def _loss_of_rank(rank: int, sizes: list[int], weights: Tensor | None, all_ignored: bool) -> list[Tensor]:
    output, labels = _whole_batch(sum(sizes), all_ignored)
    mine = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    parts = SegmentationLoss(class_weights=weights)(
        SegmentationOutput(*(logits[mine] for logits in output if logits is not None)), labels[mine]
    )
    parts.total.backward()
    grads = [logits.grad for logits in output if logits is not None]
    return [part.detach() for part in parts] + [grad for grad in grads if grad is not None]


def _whole_batch(batch: int, all_ignored: bool) -> tuple[SegmentationOutput, Tensor]:
    labels = labels_of(batch, seed=14)
    return output_of(batch, seed=13), torch.full_like(labels, 255) if all_ignored else labels


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("all_ignored", [False, True])
def test_parts_sum_over_ranks_to_the_loss_of_the_whole_batch(
    ranks: Ranks, weights: Tensor | None, all_ignored: bool
) -> None:
    sizes = [3, 1, 0, 2][: ranks.size]
    output, labels = _whole_batch(sum(sizes), all_ignored)
    parts = SegmentationLoss(class_weights=weights)(output, labels)
    parts.total.backward()
    whole = [*parts, *(logits.grad for logits in output if logits is not None)]
    answers = ranks.run(_loss_of_rank, sizes, weights, all_ignored)
    for expected, *contributions in zip(whole, *answers, strict=True):
        torch.testing.assert_close(torch.stack(contributions).sum(dim=0), expected, rtol=1e-12, atol=1e-12)
