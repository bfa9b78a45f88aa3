"""The gates between a candidate and the champion: a pure function of what was measured of both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pydantic.dataclasses
from pydantic import ConfigDict

from pipeline.bootstrap import Counts, class_iou, compare, mean_iou
from pipeline.verdicts import (
    Verdict,
    judge_checks,
    judge_classes,
    judge_data,
    judge_gain,
    judge_most,
    judge_protocol,
)


@pydantic.dataclasses.dataclass(
    frozen=True, kw_only=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True)
)
class GatesConfig:
    """What a candidate must show to become champion."""

    min_gain: float = 0.0
    """The lower end of the 95 % interval of mIoU's gain must be above this, as a share of 1; 0: more than noise."""
    max_class_drop: float = 0.05
    """No class's IoU may fall by more than this, as a share of 1; 1: any may."""
    max_latency_ms: float = 0.0
    """The longest that an image may take, in milliseconds; 0: no bound."""
    max_parameters: int = 0
    """The most parameters; 0: no bound."""
    max_memory_bytes: int = 0
    """The most memory that inference may take, in bytes; 0: no bound."""
    require_same_data: bool = True
    """Both must have been evaluated on the same data, by its digest."""
    require_same_protocol: bool = True
    """Both must have been evaluated with the same scales, flips and windows."""
    require_checks: bool = True
    """The model must have been checked, and all checks passed."""

    def __post_init__(self) -> None:
        if not -1 <= self.min_gain < 1:
            raise ValueError(f"min_gain: {self.min_gain} is out of range: give a share of 1, e.g. 0.005")
        if not 0 <= self.max_class_drop <= 1:
            raise ValueError(f"max_class_drop: {self.max_class_drop} is out of range: give a share of 1, e.g. 0.05")
        for name in ("max_latency_ms", "max_parameters", "max_memory_bytes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)} must be 0 or more; 0 is no bound")


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """What the evaluation of a model found."""

    classes: tuple[str, ...]
    counts: Counts
    """(N, 3, C) int64, `bootstrap.class_counts` of each image, in the order of the split."""
    data_digest: str = ""
    protocol: Mapping[str, object]
    """What the scores depend on besides the data: split, scales, flip, crop size; not how the work was shared out."""
    latency_ms: float | None = None
    """Of an image; None: not measured."""
    parameters: int | None = None
    memory_bytes: int | None = None
    """That inference takes at most."""
    checks: Mapping[str, str]
    """What was checked -> what is wrong with it, empty where nothing is."""


def judge(candidate: Measured, champion: Measured | None, gates: GatesConfig) -> list[Verdict]:
    """What each gate says of `candidate`; it may become champion if all are passed.

    Where there is no champion yet, what is asked for is what needs none: a score, the absolute bounds and the checks.
    """
    verdicts = [_has_score(candidate)] if champion is None else _against(candidate, champion, gates)
    for gate, value, most, unit, scale in (
        ("latency", candidate.latency_ms, gates.max_latency_ms, "ms", 1.0),
        ("parameters", candidate.parameters, gates.max_parameters, "M", 1e6),
        ("memory", candidate.memory_bytes, gates.max_memory_bytes, "MB", 1e6),
    ):
        if most:
            verdicts.append(judge_most(gate, value, most, unit, scale))
    if gates.require_checks:
        verdicts.append(judge_checks(candidate.checks))
    return verdicts


def _has_score(candidate: Measured) -> Verdict:
    score = float(mean_iou(candidate.counts.sum(0)))
    if math.isnan(score):
        return Verdict(gate="mIoU", passed=False, text="mIoU: no pixel was counted: evaluate on labelled images")
    return Verdict(
        gate="mIoU", passed=True, text=f"mIoU: {100 * score:.1f} points, and no champion yet", measured=score
    )


def _against(candidate: Measured, champion: Measured, gates: GatesConfig) -> list[Verdict]:
    verdicts = []
    if gates.require_same_data:
        verdicts.append(judge_data(candidate.data_digest, champion.data_digest))
    if gates.require_same_protocol:
        verdicts.append(judge_protocol(candidate.protocol, champion.protocol))
    try:
        if candidate.classes != champion.classes:
            raise ValueError("classes: not the champion's: evaluate both on the same data")
        gain = compare(champion.counts, candidate.counts)
    except ValueError as error:  # also where digests are equal, or need not be
        return [*verdicts, Verdict(gate="mIoU", passed=False, text=f"mIoU: can't be compared: {error}")]
    iou, before = (class_iou(np.sum(model.counts, 0)) for model in (candidate, champion))
    return [
        *verdicts,
        judge_gain(gain, gates.min_gain),
        judge_classes(candidate.classes, iou, before, gates.max_class_drop),
    ]
