"""Promotion: a candidate and the champion are measured alike, the gates judge, and the champion is moved or not.

What has been evaluated before is not evaluated again (`pipeline.evaluate.ensure_measured`). Nothing becomes champion
that was not judged against the champion that there is at that moment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline import tracking
from pipeline.champion import appoint, crown, rollback
from pipeline.errors import PipelineError
from pipeline.evaluate import ensure_measured
from pipeline.evaluation_plan import Protocol
from pipeline.evaluation_record import Recorded
from pipeline.gates import GatesConfig, judge
from pipeline.promotion_trail import Grounds, close_entry, open_entry
from pipeline.registry import CHAMPION, Version, find_aliases, find_version
from pipeline.verdicts import Verdict

__all__ = [
    "Judgement",
    "NotPromoted",
    "Promotion",
    "appoint",
    "judge_candidate",
    "promote",
    "require_promoted",
    "rollback",
]


class NotPromoted(PipelineError):
    """A candidate did not pass the gates: says which, and by how much."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the gates say of a candidate."""

    candidate: Version
    champion: str
    """The version that it was judged against; '' for none."""
    measured: Recorded
    champion_measured: Recorded | None
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """Whether all gates are."""
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def grounds(self) -> Grounds:
        """It as the trail takes it."""
        scores = {"candidate/miou": self.measured.miou}
        links = {"evaluation": self.measured.run_url}
        if self.champion_measured:
            scores["champion/miou"] = self.champion_measured.miou
            links["evaluation of the champion"] = self.champion_measured.run_url
        return Grounds(verdicts=self.verdicts, scores=scores, links=links)


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """What came of it."""

    name: str
    version: str
    previous: str
    """The champion before; '' for none."""
    promoted: bool
    """Whether the version is champion now."""
    moved: bool
    """Whether it was made that by this call."""
    verdicts: tuple[Verdict, ...] = ()
    miou: float | None = None
    champion_miou: float | None = None
    """Of the champion that it was judged against."""
    run_url: str = ""
    """The entry in the trail; '' where nothing was decided."""

    @property
    def failed(self) -> tuple[Verdict, ...]:
        """The gates that were not passed."""
        return tuple(verdict for verdict in self.verdicts if not verdict.passed)


def require_promoted(promotion: Promotion) -> None:
    """Raise NotPromoted where gates were not passed."""
    if promotion.failed:
        found = "; ".join(verdict.text for verdict in promotion.failed)
        raise NotPromoted(f"{promotion.name} version {promotion.version} does not become champion: {found}")


def promote(
    candidate_uri: str,
    protocol: Protocol,
    gates: GatesConfig,
    *,
    why: str = "",
    experiment: str = "encnet",
    confirm: Callable[[Judgement], bool] = lambda judgement: True,
    dry_run: bool = False,
) -> Promotion:
    """Make a registered version the champion if it passes the gates.

    A champion stays so, without being judged. What is refused leaves an entry in the trail, and moves nothing.

    Args:
        candidate_uri: models:/NAME@ALIAS or models:/NAME/VERSION.
        protocol: how both are evaluated, where that was not done yet.
        gates: what it must show.
        why: a reason for the trail.
        experiment: of MLflow, for the evaluations and the trail.
        confirm: is asked before the champion is moved, with what is known by then.
        dry_run: only judge: nothing is moved, and no entry made.

    Raises:
        InputError: there is no such version, or it can't be evaluated on the data.
        ChampionChanged: another version became champion meanwhile.
        PipelineError: the evaluation or MLflow failed.
    """
    candidate = find_version(candidate_uri)
    champion = find_aliases(candidate.name).get(CHAMPION, "")
    if champion == candidate.number:
        return Promotion(name=candidate.name, version=champion, previous=champion, promoted=True, moved=False)
    judgement = judge_candidate(candidate, champion, protocol, gates, experiment)
    if not judgement.passed and not dry_run:
        return _result(judgement, promoted=False, run_url=_refuse(judgement, why, experiment))
    if dry_run or not confirm(judgement):
        return _result(judgement, promoted=False)
    entry = crown(
        candidate.name,
        candidate.number,
        champion,
        why=why,
        grounds=judgement.grounds,
        experiment=experiment,
    )
    return _result(judgement, promoted=True, moved=entry is not None, run_url=entry.run_url if entry else "")


def judge_candidate(
    candidate: Version, champion: str, protocol: Protocol, gates: GatesConfig, experiment: str = "encnet"
) -> Judgement:
    """Measure a candidate and the version that is champion ('' for none) where that was not done, and judge."""
    measured = ensure_measured(candidate.uri, protocol, experiment)
    before = ensure_measured(f"models:/{candidate.name}/{champion}", protocol, experiment) if champion else None
    verdicts = judge(measured.measured, before.measured if before else None, gates)
    return Judgement(
        candidate=candidate,
        champion=champion,
        measured=measured,
        champion_measured=before,
        verdicts=tuple(verdicts),
    )


def _refuse(judgement: Judgement, why: str, experiment: str) -> str:
    """Leave an entry in the trail; returns its address."""
    client, candidate = tracking.connect(), judgement.candidate
    entry = open_entry(client, experiment, "refused", candidate.name, candidate.number, judgement.champion, why)
    close_entry(client, entry, judgement.grounds)
    return entry.run_url


def _result(judgement: Judgement, *, promoted: bool, moved: bool = False, run_url: str = "") -> Promotion:
    before = judgement.champion_measured
    return Promotion(
        name=judgement.candidate.name,
        version=judgement.candidate.number,
        previous=judgement.champion,
        promoted=promoted,
        moved=moved,
        verdicts=judgement.verdicts,
        miou=judgement.measured.miou,
        champion_miou=before.miou if before else None,
        run_url=run_url,
    )
