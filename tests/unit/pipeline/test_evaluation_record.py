"""The record of an evaluation: written, read back, and as the gates take it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.evaluation_plan import Protocol
from pipeline.evaluation_record import read_facts, write_facts
from pipeline.gates import GatesConfig, judge
from pipeline.registry import digest_weights
from tests.unit.pipeline.made_up_tally import made_up_record, made_up_tally

CLASSES = ("road", "sky", "car")


def test_facts_can_be_written_and_read() -> None:
    facts = made_up_record(made_up_tally([0, 1]), CLASSES).facts
    multi_scale = dataclasses.replace(
        facts, protocol=Protocol(data="/data", scales=(0.75, 1.0), flip=True, crop_size=64), worst=(), palette=()
    )
    for one in (facts, multi_scale):
        data = write_facts(one)
        assert read_facts(data) == one
        assert isinstance(read_facts(data).protocol, Protocol)
        assert json.loads(data)["protocol"]["split"] == "val"


def test_what_are_no_facts_is_refused() -> None:
    whole = write_facts(made_up_record(made_up_tally([0, 1]), CLASSES).facts)
    changed = {**json.loads(whole), "protocol": {"data": "x", "num_workers": 0}}
    for data in (b"", b"{}", whole[:-3], json.dumps(changed).encode(), b'{"key": 1}'):
        with pytest.raises(ValueError, match="Facts"):
            read_facts(data)


def test_the_gates_get_what_they_need() -> None:
    record = made_up_record(made_up_tally(list(range(9))), CLASSES)
    recorded = record.recorded
    measured = recorded.measured
    assert (recorded.run_id, recorded.miou) == (record.run_id, record.tally.confusion.mean_iou)
    assert (measured.classes, measured.data_digest, measured.parameters) == (CLASSES, "cd" * 32, 12_300_000)
    assert measured.protocol == {"split": "val", "scales": [1.0], "flip": False, "crop_size": 0}
    assert (measured.latency_ms, measured.memory_bytes) == (14.0, None)
    verdicts = {verdict.gate: verdict for verdict in judge(measured, measured, GatesConfig())}
    assert verdicts["data"].passed
    assert verdicts["protocol"].passed
    assert verdicts["checks"].text == "checks: probabilities are numbers: not so in 1 of 9 images, e.g. 'a'"


def test_models_are_compared_on_the_same_images_only() -> None:
    record = made_up_record(made_up_tally(list(range(9))), CLASSES)
    other = made_up_record(made_up_tally(list(range(9)), right=0.9), CLASSES, name="")
    assert other.over(record).value == pytest.approx(other.miou - record.miou)
    unlabelled = dataclasses.replace(
        other, tally=dataclasses.replace(other.tally, counts=np.zeros((9, 3, 3), np.int64))
    )
    with pytest.raises(InputError) as caught:
        unlabelled.over(unlabelled)
    assert str(caught.value) == (
        "--against: /models/mine: images: 0 with labelled pixels are too few to compare on: give at least 2"
    )


def test_a_model_has_a_title() -> None:
    assert made_up_record(made_up_tally([0]), CLASSES).facts.title == "encnet-street v3"
    assert made_up_record(made_up_tally([0]), CLASSES, name="").facts.title == "mine"


def test_weights_are_known_by_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"abc")
    assert digest_weights(tmp_path / "weights") == hashlib.sha256(b"abc").hexdigest()
