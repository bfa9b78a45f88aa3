"""What a judgement comes to, and what is said of one that does not pass."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline.evaluation_record import Recorded
from pipeline.gates import GatesConfig, Measured, judge
from pipeline.promotion import Judgement, NotPromoted, Promotion, require_promoted
from pipeline.promotion_trail import Entry, Outcome, verdict_columns
from pipeline.registry import Version
from pipeline.verdicts import Verdict
from tests.unit.pipeline.test_gates import model

NOW = datetime(2026, 11, 23, 15, 2, tzinfo=UTC)


def judgement(candidate: Measured, champion: Measured | None) -> Judgement:
    def recorded(measured: Measured, miou: float) -> Recorded:
        return Recorded(measured=measured, run_id="r", run_url=f"http://mlflow/{miou}", miou=miou)

    return Judgement(
        candidate=Version(name="street", number="4", created=NOW),
        champion="3" if champion else "",
        measured=recorded(candidate, 0.7),
        champion_measured=recorded(champion, 0.6) if champion else None,
        verdicts=tuple(judge(candidate, champion, GatesConfig())),
    )


def test_a_judgement_is_passed_by_all_gates_or_not_at_all() -> None:
    assert judgement(model(84, 66), model()).passed
    assert not judgement(model(84, 66, checks={"loads": "no"}), model()).passed
    assert not judgement(model(79, 59), model()).passed
    assert judgement(model(), None).passed


def test_the_grounds_of_a_judgement_are_scores_and_evaluations_of_both() -> None:
    grounds = judgement(model(84, 66), model()).grounds
    assert grounds.scores == {"candidate/miou": 0.7, "champion/miou": 0.6}
    assert grounds.links == {"evaluation": "http://mlflow/0.7", "evaluation of the champion": "http://mlflow/0.6"}
    assert [verdict.gate for verdict in grounds.verdicts] == ["data", "protocol", "mIoU", "classes", "checks"]
    assert judgement(model(), None).grounds.scores == {"candidate/miou": 0.7}


def test_what_failed_is_said_with_how_much() -> None:
    verdicts = judgement(model(79, 59, checks={}), model()).verdicts
    refused = Promotion(name="street", version="4", previous="3", promoted=False, moved=False, verdicts=verdicts)
    assert [verdict.gate for verdict in refused.failed] == ["mIoU", "checks"]
    with pytest.raises(NotPromoted) as caught:
        require_promoted(refused)
    text = str(caught.value)
    assert text.startswith("street version 4 does not become champion: mIoU: -1.")
    assert text.endswith("over the champion: worse by more than noise; checks: none was made")
    passed = Promotion(name="street", version="4", previous="3", promoted=True, moved=True, verdicts=verdicts[:2])
    require_promoted(passed)


def test_verdicts_are_a_table_without_the_gate_s_name_twice() -> None:
    verdicts = [
        Verdict(gate="data", passed=True, text="data: both on abc"),
        Verdict(gate="latency", passed=False, text="latency: 60.0 ms, 10.0 ms more than allowed"),
    ]
    assert verdict_columns(verdicts) == {
        "gate": ["data", "latency"],
        "passed": ["yes", "no"],
        "finding": ["both on abc", "60.0 ms, 10.0 ms more than allowed"],
    }


@pytest.mark.parametrize(
    ("outcome", "before", "why", "text"),
    [
        ("promoted", "3", "new frames", "version 4 promoted over 3 by ann@host: new frames"),
        ("appointed", "", "", "version 4 appointed by ann@host"),
        ("refused", "3", "", "version 4 refused against 3 by ann@host"),
        ("rolled back", "3", "flickers", "version 4 brought back after 3 by ann@host: flickers"),
    ],
)
def test_an_entry_of_the_trail_in_words(outcome: Outcome, before: str, why: str, text: str) -> None:
    entry = Entry(
        outcome=outcome,
        name="street",
        version="4",
        before=before,
        who="ann@host",
        why=why,
        at=NOW,
        run_id="r",
        run_url="http://mlflow/r",
    )
    assert entry.text == text
