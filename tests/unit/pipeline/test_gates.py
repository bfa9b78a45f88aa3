"""Which gates a candidate has to pass, and what it is told where it doesn't."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from pipeline.bootstrap import Counts, class_counts
from pipeline.gates import GatesConfig, Measured, judge
from pipeline.verdicts import Verdict


def counts(road: int, pole: int, num_images: int = 20) -> Counts:
    """Images with 100 pixels of each of two classes, of which so many are right, more or less by turns."""
    images = []
    for at in range(num_images):
        a, b = road + at % 3 - 1, pole + at % 5 - 2
        images.append([[a, 100 - a], [100 - b, b]])
    return class_counts(np.array(images))


def model(road: int = 80, pole: int = 60, **changes: Any) -> Measured:
    measured = Measured(
        classes=("road", "pole"),
        counts=counts(road, pole),
        data_digest="a" * 64,
        protocol={"split": "val", "scales": [1.0], "flip": False, "crop_size": 0},
        latency_ms=40.0,
        parameters=12_000_000,
        memory_bytes=900_000_000,
        checks={"loads": ""},
    )
    return dataclasses.replace(measured, **changes)


def failed(verdicts: list[Verdict]) -> list[str]:
    return [verdict.text for verdict in verdicts if not verdict.passed]


def test_a_better_candidate_passes_all_gates() -> None:
    verdicts = judge(model(84, 66), model(), GatesConfig())
    assert failed(verdicts) == []
    assert [verdict.gate for verdict in verdicts] == ["data", "protocol", "mIoU", "classes", "checks"]
    assert verdicts[2].text.endswith("over the champion: more than noise")


def test_what_is_no_better_than_the_champion_does_not_pass() -> None:
    assert failed(judge(model(), model(), GatesConfig())) == [
        "mIoU: +0.0 points (95 %: +0.0 to +0.0) over the champion: not more than noise"
    ]
    (worse,) = failed(judge(model(79, 59), model(), GatesConfig()))
    assert worse.endswith("over the champion: worse by more than noise")


def test_a_gain_that_one_class_pays_for_does_not_pass() -> None:
    before = [[100, 0, 0], [0, 60, 40], [0, 40, 60]]
    after = [[80, 20, 0], [0, 100, 0], [0, 0, 100]]
    champion, candidate = (
        model(classes=("road", "pole", "sign"), counts=class_counts(np.array([matrix] * 4)))
        for matrix in (before, after)
    )
    verdicts = judge(candidate, champion, GatesConfig())
    assert failed(verdicts) == ["classes: road's IoU fell by 20.0 points (100.0 to 80.0), 15.0 more than allowed"]
    gain = (80 / 100 + 100 / 120 + 100 / 100) / 3 - (100 / 100 + 60 / 140 + 60 / 140) / 3
    assert verdicts[2].measured == pytest.approx(gain)
    assert failed(judge(candidate, champion, GatesConfig(max_class_drop=0.2))) == []


def test_every_failed_gate_says_so() -> None:
    candidate = model(
        78,
        40,
        data_digest="b" * 64,
        protocol={"split": "val", "scales": [1.0], "flip": True, "crop_size": 0},
        latency_ms=None,
        checks={"loads": "", "odd sizes": "63 x 65: failed"},
    )
    bounds = GatesConfig(max_latency_ms=50, max_parameters=10_000_000, max_memory_bytes=800_000_000)
    texts = failed(judge(candidate, model(), bounds))
    assert texts[:2] == [
        "data: on bbbbbbbbbbbb, the champion on aaaaaaaaaaaa: evaluate both on the same data",
        "protocol: flip True, the champion's False: evaluate both alike",
    ]
    assert texts[2].startswith("mIoU: -")
    assert texts[2].endswith("over the champion: worse by more than noise")
    assert texts[3].startswith("classes: pole's IoU fell by ")
    assert texts[4:] == [
        "latency: not measured, and at most 50.0 ms is allowed",
        "parameters: 12.0 M, 2.0 M more than allowed",
        "memory: 900.0 MB, 100.0 MB more than allowed",
        "checks: odd sizes: 63 x 65: failed",
    ]


def test_where_there_is_no_champion_only_absolute_bounds_hold() -> None:
    low = class_counts(np.array([[[50, 50], [0, 100]]]))
    verdicts = judge(model(counts=low, data_digest=""), None, GatesConfig(max_latency_ms=50))
    assert failed(verdicts) == []
    assert [verdict.gate for verdict in verdicts] == ["mIoU", "latency", "checks"]
    assert verdicts[0].text == "mIoU: 58.3 points, and no champion yet"
    late = judge(model(latency_ms=51), None, GatesConfig(max_latency_ms=50))
    assert failed(late) == ["latency: 51.0 ms, 1.0 ms more than allowed"]


def test_a_candidate_without_a_score_does_not_pass() -> None:
    nothing = model(counts=np.zeros((3, 3, 2), np.int64))
    assert failed(judge(nothing, None, GatesConfig())) == ["mIoU: no pixel was counted: evaluate on labelled images"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"classes": ("pole", "road")}, "classes: not the champion's: evaluate both on the same data"),
        ({"counts": counts(84, 66, num_images=19)},
         "counts: shapes (20, 3, 2) and (19, 3, 2): give (N, 3, C) of the same images and classes"),
        ({"counts": 2 * counts(84, 66)},
         "counts: the truth of 20 of 20 images differs: give the same images in one order"),
    ],
)  # fmt: skip
def test_scores_on_other_images_are_not_compared(changes: dict[str, Any], why: str) -> None:
    """Not even where other data was allowed for: data that was prepared anew may be the same images."""
    gates = GatesConfig(require_same_data=False)
    assert failed(judge(model(**changes), model(), gates)) == [f"mIoU: can't be compared: {why}"]


def test_what_is_not_required_is_not_judged() -> None:
    candidate = model(84, 66, data_digest="b" * 64, protocol={}, checks={}, latency_ms=None)
    gates = GatesConfig(require_same_data=False, require_same_protocol=False, require_checks=False)
    verdicts = judge(candidate, model(), gates)
    assert [(verdict.gate, verdict.passed) for verdict in verdicts] == [("mIoU", True), ("classes", True)]


def test_the_same_measures_get_the_same_verdicts() -> None:
    candidate, champion = model(81, 61), model()
    assert judge(candidate, champion, GatesConfig()) == judge(candidate, champion, GatesConfig())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_gain": 1}, r"min_gain: 1\.0 is out of range: give a share of 1, e\.g\. 0\.005"),
        ({"min_gain": float("nan")}, "min_gain: nan is out of range"),
        ({"max_class_drop": 5}, r"max_class_drop: 5\.0 is out of range: give a share of 1, e\.g\. 0\.05"),
        ({"max_class_drop": -0.1}, r"max_class_drop: -0\.1 is out of range"),
        ({"max_latency_ms": -1}, r"max_latency_ms: -1\.0 must be 0 or more; 0 is no bound"),
        ({"max_latency_ms": float("nan")}, "max_latency_ms: nan must be 0 or more"),
        ({"max_parameters": -1}, "max_parameters: -1 must be 0 or more"),
        ({"max_memory_bytes": -1}, "max_memory_bytes: -1 must be 0 or more"),
        ({"max_parameters": 1.5}, "max_parameters"),
        ({"max_latency": 1}, "max_latency"),
    ],
)
def test_bounds_are_checked_when_built(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GatesConfig(**values)


def test_bounds_can_be_loaded_back_and_every_one_is_explained() -> None:
    adapter = TypeAdapter(GatesConfig)
    gates = GatesConfig(min_gain=0.002, max_parameters=50_000_000)
    assert adapter.validate_python(adapter.dump_python(gates, mode="json")) == gates
    assert all(field["description"] for field in adapter.json_schema()["properties"].values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        gates.min_gain = 0.5  # type: ignore[misc]
