"""Sweeps: functions that return a whole configuration. Each docstring gives command, hardware and time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pipeline.sweep_config import BudgetConfig, SchedulerConfig, SweepConfig
from pipeline.sweep_space import Choice, LogUniform
from workflows.recipes.camvid import camvid_r18
from workflows.recipes.context_scenes import context_scenes_r18


def context_scenes_lr() -> SweepConfig:
    """Learning rate and class weighting on generated scenes: 6 short trials.

    encnet sweep context_scenes_lr --data s3://encnet/data/context-scenes

    2 cores of an Intel Xeon (AVX512): trials of two workers, one at a time, a third of a minute each.
    """
    run = context_scenes_r18()
    return SweepConfig(
        sweep="context_scenes_lr",
        run=replace(run, validation=replace(run.validation, pictures=2)),
        space={
            "optim.lr": LogUniform(low=2e-4, high=2e-2),
            "loss.class_weighting": Choice(values=["none", "enet"]),
        },
        scheduler=SchedulerConfig(kind="asha", grace=0.3, reduction=2.0),
        budget=BudgetConfig(trials=6),
    )


def camvid_lr() -> SweepConfig:
    """Learning rate, weight decay and weight of the SE-loss on CamVid, chosen by TPE, ended early by ASHA.

    encnet sweep camvid_lr --data s3://encnet/data/camvid --trials 30

    Each trial is a camvid_r18, of which ASHA ends two in three after a fifth of its epochs: some 15 hours for 30 trials
    on 2 cores of an Intel Xeon with AMX, one at a time; an estimate. Not run to the end by us.
    """
    return SweepConfig(
        sweep="camvid_lr",
        run=camvid_r18(),
        space={
            "optim.lr": LogUniform(low=5e-3, high=2e-1),
            "optim.weight_decay": LogUniform(low=1e-5, high=1e-2),
            "loss.se_weight": Choice(values=[0.0, 0.1, 0.2, 0.4]),
        },
        searcher="tpe",
        scheduler=SchedulerConfig(kind="asha", grace=0.2, reduction=3.0),
        budget=BudgetConfig(trials=30),
    )


SWEEPS: dict[str, Callable[[], SweepConfig]] = {sweep.__name__: sweep for sweep in (context_scenes_lr, camvid_lr)}
"""The sweeps by name."""
