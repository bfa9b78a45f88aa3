"""The length of a run and its learning rate, as functions of the step."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import OptimConfig
from pipeline.schedule import epoch_end, learning_rate, num_steps

schedules = st.builds(
    OptimConfig,
    schedule=st.sampled_from(["poly", "cosine", "constant"]),
    lr=st.floats(0.01, 1.0),
    min_lr=st.floats(0.0, 0.01),
    power=st.floats(0.1, 4.0),
    warmup_steps=st.integers(0, 50),
)


@pytest.mark.parametrize(
    ("samples", "epochs", "batch_size", "max_steps", "steps"),
    [(367, 30, 16, 0, 689), (16, 1, 4, 0, 4), (17, 1, 4, 0, 5), (16, 0.5, 4, 0, 2), (16, 30, 4, 7, 7)],
)
def test_the_number_of_steps(samples: int, epochs: float, batch_size: int, max_steps: int, steps: int) -> None:
    assert num_steps(samples, OptimConfig(epochs=epochs, batch_size=batch_size, max_steps=max_steps)) == steps


@given(samples=st.integers(1, 500), batch_size=st.integers(1, 64), epoch=st.integers(0, 20))
def test_an_epoch_ends_with_the_step_that_takes_its_last_sample(samples: int, batch_size: int, epoch: int) -> None:
    end = epoch_end(epoch, samples, batch_size)
    last_sample = (epoch + 1) * samples - 1
    assert (end - 1) * batch_size <= last_sample < end * batch_size


def test_poly_by_hand() -> None:
    optim = OptimConfig(lr=2.0)
    assert learning_rate(0, 100, optim) == 2.0
    assert learning_rate(25, 100, optim) == pytest.approx(2 * 0.75**0.9, rel=1e-12)
    assert learning_rate(99, 100, optim) == pytest.approx(2 * 0.01**0.9, rel=1e-12)
    assert learning_rate(100, 100, optim) == 0.0
    assert learning_rate(30, 100, OptimConfig(lr=1.0, power=2.0)) == pytest.approx(0.49, rel=1e-12)
    assert learning_rate(25, 100, OptimConfig(lr=0.01, min_lr=1e-4)) == pytest.approx(1e-4 + 0.0099 * 0.75**0.9)


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_as_torch_s_own_schedulers(schedule: Literal["poly", "cosine"]) -> None:
    optim = OptimConfig(schedule=schedule, lr=0.3, min_lr=0.01 if schedule == "cosine" else 0.0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=optim.lr)
    scheduler: torch.optim.lr_scheduler.LRScheduler
    if schedule == "poly":
        scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=40, power=optim.power)
    else:
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=optim.min_lr)
    for step in range(40):
        assert learning_rate(step, 40, optim) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


@given(optim=schedules, steps=st.integers(1, 200))
def test_it_falls_from_lr_to_min_lr_once_it_is_warm(optim: OptimConfig, steps: int) -> None:
    rates = [learning_rate(step, steps, optim) for step in range(steps + 1)]
    assert all(0 <= rate <= optim.lr * (1 + 1e-12) for rate in rates)
    warm = rates[max(0, optim.warmup_steps - 1) :]
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(warm))
    if optim.warmup_steps <= 1:
        assert rates[0] == pytest.approx(optim.lr)
    if optim.warmup_steps <= steps:
        assert rates[-1] == pytest.approx(optim.lr if optim.schedule == "constant" else optim.min_lr, abs=1e-12)


def test_the_warm_up_rises_to_the_schedule() -> None:
    optim = OptimConfig(lr=1.0, power=1.0, warmup_steps=10)
    rates = [learning_rate(step, 100, optim) for step in range(12)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[4] == pytest.approx(0.5 * 0.96)
    assert rates[9:] == pytest.approx([0.91, 0.90, 0.89])
