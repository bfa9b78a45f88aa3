"""What each gate says of a candidate: whether it passes, by how much, and one sentence for people. Pure functions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.bootstrap import Difference

_ROUNDING = 1e-9
"""0.9 - 0.85 is above 0.05 by less than this."""
_NAMED = 3
"""So many classes are named; of others only the number is told."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one gate found."""

    gate: str
    passed: bool
    text: str
    """One sentence, which begins with the gate's name."""
    measured: float | str | None = None
    """Scores as shares of 1; None where it was not measured."""
    bound: float | str | None = None
    """What it was held against."""
    margin: float | None = None
    """How far `measured` is on the good side of `bound`, below 0 on the bad one; None where they are no numbers."""


def judge_gain(gain: Difference, min_gain: float) -> Verdict:
    """Whether the lower end of the interval of the gain in mIoU is above `min_gain`."""
    passed = gain.low > min_gain
    digits = _digits(100 * gain.low, 100 * min_gain)
    value, low, high, bound = (f"{100 * share:+.{digits}f}" for share in (gain.value, gain.low, gain.high, min_gain))
    if min_gain:
        found = f"{low} {'is' if passed else 'is not'} above the {bound} asked for"
    elif gain.high < 0:
        found = "worse by more than noise"
    else:
        found = "more than noise" if passed else "not more than noise"
    return Verdict(
        gate="mIoU",
        passed=passed,
        text=f"mIoU: {value} points ({100 * gain.level:g} %: {low} to {high}) over the champion: {found}",
        measured=gain.low,
        bound=min_gain,
        margin=gain.low - min_gain,
    )


def judge_classes(
    classes: Sequence[str], iou: NDArray[np.float64], before: NDArray[np.float64], max_drop: float
) -> Verdict:
    """Whether no class's IoU fell by more than `max_drop`; NaN is a class that is not in the truth."""
    drops = np.nan_to_num(before - iou, nan=-math.inf)
    worst, *others = np.argsort(-drops, kind="stable").tolist()
    drop = float(drops[worst])
    digits = _digits(100 * drop, 100 * max_drop)
    fell, old, new, bound, over = (
        f"{100 * share:.{digits}f}" for share in (drop, before[worst], iou[worst], max_drop, drop - max_drop)
    )
    passed = drop <= max_drop + _ROUNDING
    if drop <= _ROUNDING:
        text = "classes: no class's IoU fell"
    elif passed:
        text = f"classes: {classes[worst]}'s IoU fell most, by {fell} points ({old} to {new}); {bound} are allowed"
    else:
        text = f"classes: {classes[worst]}'s IoU fell by {fell} points ({old} to {new}), {over} more than allowed"
        too = [f"{classes[at]}'s by {100 * drops[at]:.{digits}f}" for at in others if drops[at] > max_drop + _ROUNDING]
        text += "".join(f", {one}" for one in too[:_NAMED])
        text += f", and of {len(too) - _NAMED} more" if len(too) > _NAMED else ""
    return Verdict(gate="classes", passed=passed, text=text, measured=drop, bound=max_drop, margin=max_drop - drop)


def judge_most(gate: str, value: float | None, most: float, unit: str, scale: float = 1.0) -> Verdict:
    """Whether `value` was measured and is at most `most`; shown as multiples of `scale`, in `unit`."""
    if value is None or not math.isfinite(value):
        text = f"{gate}: not measured, and at most {most / scale:.1f} {unit} is allowed"
        return Verdict(gate=gate, passed=False, text=text, bound=most)
    digits = _digits(value / scale, most / scale)
    shown, bound, over = (f"{number / scale:.{digits}f} {unit}" for number in (value, most, value - most))
    passed = value <= most
    text = f"{gate}: {shown}, " + (f"and at most {bound} is allowed" if passed else f"{over} more than allowed")
    return Verdict(gate=gate, passed=passed, text=text, measured=value, bound=most, margin=most - value)


def judge_data(digest: str, champion: str) -> Verdict:
    """Whether both were evaluated on the same data; an empty digest is one that isn't known."""
    passed = bool(digest) and digest == champion
    mine, others = (one[:12] or "unknown data" for one in (digest, champion))
    found = f"both on {mine}" if passed else f"on {mine}, the champion on {others}: evaluate both on the same data"
    return Verdict(gate="data", passed=passed, text=f"data: {found}", measured=digest, bound=champion)


def judge_protocol(protocol: Mapping[str, object], champion: Mapping[str, object]) -> Verdict:
    """Whether both were evaluated in the same way."""
    here, there = (json.loads(json.dumps(dict(one))) for one in (protocol, champion))  # one of them was stored so
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    differ = ", ".join(f"{name} {here.get(name)}, the champion's {there.get(name)}" for name in names)
    text = f"protocol: {differ}: evaluate both alike" if names else "protocol: the champion's"
    return Verdict(gate="protocol", passed=not names, text=text)


def judge_checks(checks: Mapping[str, str]) -> Verdict:
    """Whether anything was checked, and nothing found wrong: name -> what is wrong, empty where nothing is."""
    wrong = [f"{name}: {fault}" for name, fault in checks.items() if fault]
    passed = bool(checks) and not wrong
    found = "; ".join(wrong) or (f"{len(checks)} passed" if checks else "none was made")
    return Verdict(gate="checks", passed=passed, text=f"checks: {found}", measured=len(wrong), bound=0)


def _digits(value: float, bound: float) -> int:
    """Decimals with which a value does not look like the bound it differs from: 1 to 4."""
    if abs(value - bound) <= 100 * _ROUNDING:
        return 1
    return next((digits for digits in range(1, 4) if f"{value:.{digits}f}" != f"{bound:.{digits}f}"), 4)
