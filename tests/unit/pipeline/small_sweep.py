"""A small sweep, and trials of it, for tests."""

from __future__ import annotations

from typing import Any

from encnet import ModelConfig
from pipeline.config import RunConfig
from pipeline.sweep_config import BudgetConfig, SchedulerConfig, SweepConfig
from pipeline.sweep_plan import Outcome, Score, Trial
from pipeline.sweep_space import Choice, LogUniform


def small_sweep(**changes: Any) -> SweepConfig:
    """Two fields, six trials."""
    values: dict[str, Any] = {
        "sweep": "small",
        "name": "small-1",
        "run": RunConfig(recipe="made_up", model=ModelConfig(num_classes=3, backbone="resnet18")),
        "space": {"optim.lr": LogUniform(low=1e-4, high=1e-1), "optim.kind": Choice(values=["sgd", "adamw"])},
        "scheduler": SchedulerConfig(kind="asha", grace=0.25, reduction=2.0),
        "budget": BudgetConfig(trials=6),
    }
    return SweepConfig(**{**values, **changes})


def trial(
    number: int, outcome: Outcome, *scores: float, lr: float = 0.01, kind: str = "sgd", reason: str = ""
) -> Trial:
    """A trial whose scores are of its first quarters, the last of them of its end if it finished."""
    quarter = [Score(10 * (place + 1), 0.25 * (place + 1), value) for place, value in enumerate(scores)]
    if outcome is Outcome.FINISHED and quarter:
        quarter[-1] = Score(40, 1.0, scores[-1])
    return Trial(
        number=number, values={"optim.lr": lr, "optim.kind": kind}, outcome=outcome, scores=quarter, reason=reason
    )
