"""The step that every worker takes: its gradient, norm and clipping, precisions, and the network it leads to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import encnet
from pipeline.config import DataConfig, LossConfig, OptimConfig, RunConfig
from pipeline.loader import Batch
from pipeline.train_setup import Worker, build_net, setup
from pipeline.train_step import train_step
from pipeline.world import World
from tests.unit.pipeline.made_up_data import CLASSES, write_made_up

CPU = torch.device("cpu")
MODEL = encnet.ModelConfig(num_classes=len(CLASSES), backbone="resnet18", output_stride=32, head_channels=16)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small data set, for what a worker reads of it."""
    folder = tmp_path_factory.mktemp("data")
    write_made_up(folder)
    return str(folder)


def _worker(data: str, optim: dict[str, Any] | None = None, **fields: Any) -> Worker:
    optim_config = OptimConfig(**{"batch_size": 4, "lr": 0.01, **(optim or {})})
    loss = LossConfig(aux_weight=0.2, se_weight=0.2)
    config = RunConfig(model=MODEL, data=DataConfig(uri=data), optim=optim_config, loss=loss, **fields)
    return setup(config, World(), CPU)


def _batches(micro_batch: int, step: int = 0, size: int = 4) -> list[Batch]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (size, 64, 64, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, len(CLASSES), (size, 64, 64), generator=generator, dtype=torch.uint8)
    labels[0, :40] = 255  # images of unequal weight
    return [
        Batch(
            images=images[first : first + micro_batch],
            labels=labels[first : first + micro_batch],
            positions=torch.arange(first, first + micro_batch),
            sample_ids=torch.arange(micro_batch),
            step=step,
            micro_step=first // micro_batch,
            consumed=0,
        )
        for first in range(0, size, micro_batch)
    ]


def _gradients(worker: Worker) -> Tensor:
    return torch.cat([p.grad.flatten() for p in worker.net.parameters() if p.grad is not None])


def _reference(worker: Worker, batches: list[Batch]) -> Tensor:
    """The loss of the global batch, with BatchNorm per micro-batch, in plain torch."""
    parts = []
    labels = torch.cat([batch.labels for batch in batches]).long()
    valid, images = (labels != 255).sum(), len(labels)
    for batch in batches:
        encnet.set_dropout_key(worker.net, worker.config.seed, batch.step, batch.positions)
        output = worker.net(worker.normalize(batch.images))
        wanted = batch.labels.long()
        pixel, aux = (
            F.cross_entropy(logits, wanted, ignore_index=255, reduction="sum") / valid
            for logits in (output.logits, output.aux_logits)
        )
        present = torch.stack([torch.bincount(label[label != 255], minlength=len(CLASSES)) > 0 for label in wanted])
        se = F.binary_cross_entropy_with_logits(output.se_logits, present.float(), reduction="sum")
        parts.append(pixel + 0.2 * aux + 0.2 * se / (images * len(CLASSES)))
    return torch.stack(parts).sum()


@pytest.mark.parametrize("micro_batch", [4, 2])
def test_the_loss_and_the_norm_are_those_of_the_global_batch(data: str, micro_batch: int) -> None:
    worker, other = _worker(data), _worker(data)
    batches = _batches(micro_batch)
    expected = _reference(other, batches)
    expected.backward()
    parts = train_step(worker, 0, 0.01, batches)
    assert parts[0].item() == pytest.approx(expected.item(), rel=1e-5)
    assert parts[0].item() == pytest.approx((parts[1] + 0.2 * parts[2] + 0.2 * parts[3]).item(), rel=1e-5)
    assert parts[4].item() == pytest.approx(_gradients(other).double().norm().item(), rel=1e-4)
    torch.testing.assert_close(_gradients(worker), _gradients(other), rtol=1e-3, atol=1e-5)


def test_clipping_shortens_the_gradient_and_leaves_the_norm_that_is_told(data: str) -> None:
    free, clipped = _worker(data), _worker(data, {"grad_clip": 0.1})
    norm = train_step(free, 0, 0.01, _batches(4))[4]
    assert norm > 0.5
    assert train_step(clipped, 0, 0.01, _batches(4))[4] == norm
    torch.testing.assert_close(_gradients(clipped), _gradients(free) * 0.1 / norm, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 0.02), ("fp16", 0.002)])
def test_half_precisions_are_near_float32(data: str, precision: Any, bound: float) -> None:
    exact, half = _worker(data), _worker(data, precision=precision)
    for step in range(2):
        expected, parts = (train_step(worker, step, 0.001, _batches(4, step)) for worker in (exact, half))
        assert parts[:4].tolist() == pytest.approx(expected[:4].tolist(), rel=bound, abs=bound)
        assert parts[4].item() == pytest.approx(expected[4].item(), rel=0.2)
    assert all(parameter.dtype == torch.float32 for parameter in half.net.parameters())


def test_fp16_skips_a_step_whose_gradient_overflows(data: str) -> None:
    worker = _worker(data, precision="fp16")
    before = [parameter.detach().clone() for parameter in worker.net.parameters()]
    worker.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    parts = train_step(worker, 0, 0.01, _batches(4))
    assert parts[:4].isfinite().all()
    assert not parts[4].isfinite()
    assert all(torch.equal(*pair) for pair in zip(before, worker.net.parameters(), strict=True))
    assert worker.scaler.get_scale() == 2.0**39


def test_a_gradient_that_is_not_finite_shows_in_the_step_s_norm(data: str) -> None:
    worker = _worker(data)
    with torch.no_grad():
        worker.net.head.classifier.weight[0, 0] = torch.nan
    parts = train_step(worker, 0, 0.01, _batches(4))
    assert parts.isnan().tolist() == [True, True, False, False, True]


@pytest.mark.parametrize("fields", [{"channels_last": "yes"}, {"deterministic": True}])
def test_how_it_is_computed_changes_no_result(data: str, fields: dict[str, Any]) -> None:
    plain, other = _worker(data), _worker(data, **fields)
    results = [train_step(worker, 0, 0.01, _batches(4)) for worker in (plain, other)]
    torch.testing.assert_close(results[0][:4], results[1][:4], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[0][4], results[1][4], rtol=1e-3, atol=0)
    assert other.net.get_parameter("head.bottleneck.conv.weight").is_contiguous() == ("channels_last" not in fields)


def test_the_average_is_what_is_kept(data: str) -> None:
    plain, averaged = _worker(data), _worker(data, {"ema_decay": 0.5})
    assert plain.result is plain.net
    assert averaged.ema
    assert averaged.result is averaged.ema.net
    start = averaged.net.head.classifier.weight.detach().clone()
    train_step(averaged, 0, 0.01, _batches(4))
    expected = 0.1 * start + 0.9 * averaged.net.head.classifier.weight
    torch.testing.assert_close(averaged.ema.net.head.classifier.weight, expected)


def test_start_values_depend_on_the_seed_and_leave_torch_s_random_state_alone(data: str) -> None:
    config = _worker(data).config
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    one, same = build_net(config, CPU), build_net(config, CPU)
    assert torch.rand(1) == expected
    assert all(torch.equal(*pair) for pair in zip(one.parameters(), same.parameters(), strict=True))
