"""The chain of `encnet run`, done: prepare, train, evaluate, gate, promote, each as its own verb does it.

Each step, done again after it broke off, goes on: the shards of a data set and the chunks of an evaluation are kept,
training has its checkpoints and a name made of its inputs, and promotion finds the evaluations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pipeline import tracking
from pipeline.chain_plan import (
    STEPS,
    Asked,
    Decision,
    Record,
    Step,
    as_judged,
    decide,
    inputs_of,
    preview,
    run_name,
    times_trained,
)
from pipeline.chain_trail import Trail, find_trail, open_trail
from pipeline.config import RunConfig, flat
from pipeline.errors import InputError, PipelineError
from pipeline.registry import CHAMPION, Version, find_aliases, find_version
from pipeline.resume import is_used, resumed_config, stored_config
from pipeline.shards import DatasetInfo
from pipeline.stop_signals import StopSignals

Result = dict[str, str]


class Refused(PipelineError):
    """The gates did not let the candidate pass."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """The data set of a chain."""

    there: DatasetInfo | None
    """As it was found; None where there is none yet."""
    prepare: Callable[[bool], DatasetInfo]
    """Writes it, or finds it written; True: even if it is there. Raises InputError where it has no source."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a chain came to."""

    run_id: str
    run_url: str
    decisions: list[Decision]
    results: dict[str, Result]
    """Step -> what it gave."""

    @property
    def refusal(self) -> str:
        """What the gates have against the candidate; '' where they let it pass."""
        gate = self.results.get("gate", {})
        return gate.get("verdicts", "") if gate.get("passed") == "no" else ""


def plan_chain(asked: Asked, data: Data, start: Step | None) -> list[Decision]:
    """What `run_chain` would do, as far as it can be known. Writes nothing. Raises InputError."""
    _, done = find_trail(tracking.connect(), asked)
    return preview(asked, _as_things_are(asked, data, done), start)


def run_chain(
    asked: Asked,
    data: Data,
    *,
    start: Step | None = None,
    why: str = "",
    tell: Callable[[Decision], object] = lambda decision: None,
) -> Outcome:
    """Do the steps that have yet to be done, and from `start` on all. `tell` is told of each before it is done.

    What the gates say no to is an Outcome too. Raises InputError and PipelineError: asked for again, the chain goes on
    where it broke off.
    """
    client = tracking.connect()
    run_id, done = find_trail(client, asked)
    done = _as_things_are(asked, data, done)
    preview(asked, done, start)
    work = _Work(asked=asked, data=data, start=start, why=why, done=done, trail=open_trail(client, asked, run_id))
    with tracking.ending(work.end), StopSignals():
        return work.run(tell)


def _as_things_are(asked: Asked, data: Data, done: dict[str, Record]) -> dict[str, Record]:
    """The records that still hold: data may have changed, a version been deleted, another one become champion."""
    kept = {step: record for step, record in done.items() if step != "prepare"}
    if data.there:
        place = inputs_of("prepare", asked, {}) or {}
        at = done["prepare"].at if "prepare" in done else "before"
        kept["prepare"] = Record(inputs=place, result=_told(data.there), at=at)
    if "train" in kept:
        version = _find(kept["train"].result["model_uri"])
        if version is None:
            del kept["train"]
        elif "gate" in kept:
            kept["gate"] = as_judged(kept["gate"], find_aliases(version.name).get(CHAMPION, ""))
    return kept


def _told(dataset: DatasetInfo) -> Result:
    splits = ", ".join(f"{split.samples:,} {name}" for name, split in dataset.splits.items())
    return {"digest": dataset.digest, "name": dataset.name, "text": f"{dataset.name}, {splits}"}


def _find(model_uri: str) -> Version | None:
    try:
        return find_version(model_uri)
    except InputError:
        return None


@dataclass(kw_only=True)
class _Work:
    """A chain under way."""

    asked: Asked
    data: Data
    start: Step | None
    why: str
    done: dict[str, Record]
    trail: Trail
    results: dict[str, Result] = field(default_factory=dict)

    def run(self, tell: Callable[[Decision], object]) -> Outcome:
        """Do what is to be done, step by step, up to a refusal."""
        actions = {
            "prepare": self.prepare,
            "train": self.train,
            "evaluate": self.evaluate,
            "gate": self.gate,
            "promote": self.promote,
        }
        decisions = []
        for step in STEPS:
            decision = self.decide(step)
            decisions.append(decision)
            tell(decision)
            if decision.does:
                inputs = inputs_of(step, self.asked, self.results)
                assert inputs is not None  # all steps before are done
                self.done[step] = self.trail.keep(step, inputs, actions[step]())
            self.results[step] = dict(self.done[step].result)
            if self.refused:
                break
            self.tell(f"after {step}")
        self.tell("refused by the gates" if self.refused else "promoted")
        return Outcome(
            run_id=self.trail.run_id, run_url=self.trail.url, decisions=decisions, results=dict(self.results)
        )

    @property
    def refused(self) -> bool:
        """Whether the gates said no."""
        return self.results.get("gate", {}).get("passed") == "no"

    def tell(self, outcome: str) -> None:
        """Bring what a person reads of the chain's run up to date."""
        self.trail.tell({step: self.done[step] for step in self.results}, outcome)

    def end(self, status: str) -> None:
        """Say how far it came, and set the run's status."""
        if self.refused:
            status = "FAILED"
        elif status != "FINISHED" and len(self.results) < len(STEPS):
            self.tell(f"broke off in {STEPS[len(self.results)]}: the same encnet run goes on")
        self.trail.end(status)

    def decide(self, step: Step) -> Decision:
        """Whether a step is to be done."""
        return decide(step, inputs_of(step, self.asked, self.results), self.done.get(step), self.start)

    def _is_forced(self, step: Step) -> bool:
        return self.start is not None and STEPS.index(step) >= STEPS.index(self.start)

    def prepare(self) -> Result:
        """Write the data set."""
        return _told(self.data.prepare(self._is_forced("prepare")))

    def train(self) -> Result:
        """Train, or go on with the run of these inputs that broke off."""
        from pipeline.launch import resolve, run_training

        times = times_trained(self.done.get("train"), again=self._is_forced("train"))
        name = run_name(self.asked, self.results["prepare"]["digest"], times)
        config, _ = resolve(replace(self.asked.config, name=name))
        is_there = is_used(config.storage, name)
        result = run_training(
            _gone_on_with(config) if is_there else config,
            resume=is_there,
            tags={tracking.PARENT_TAG: self.trail.run_id},
        )
        return {
            "name": result.name,
            "run_id": result.run_id,
            "run_url": result.run_url,
            "model_uri": result.model_uri,
            "times": str(times),
            "text": f"{result.name}: {result.steps:,} steps, mIoU {100 * result.miou:.2f} %, {result.model_uri}",
        }

    def evaluate(self) -> Result:
        """Evaluate, or find the evaluation."""
        from pipeline import evaluate

        model, protocol, experiment = self.results["train"]["model_uri"], self.asked.protocol, self._experiment
        if self._is_forced("evaluate"):
            evaluate.evaluate(model, protocol, experiment)
        recorded = evaluate.ensure_measured(model, protocol, experiment)
        self.trail.adopt(recorded.run_id)
        self.trail.log_score(f"eval/{protocol.label}/miou", recorded.miou)
        return {
            "run_id": recorded.run_id,
            "run_url": recorded.run_url,
            "miou": f"{recorded.miou:.6f}",
            "text": f"mIoU {100 * recorded.miou:.2f} % on {protocol.label}",
        }

    def gate(self) -> Result:
        """Have the gates judge; a refusal is entered in the model's trail, and nothing is moved."""
        from pipeline.promotion import promote

        judged = promote(
            self.results["train"]["model_uri"],
            self.asked.protocol,
            self.asked.gates,
            why=self.why,
            experiment=self._experiment,
            confirm=lambda judgement: False,
        )
        if judged.promoted:
            return {"passed": "yes", "champion": judged.version, "text": "is champion already"}
        against = f"version {judged.previous}" if judged.previous else "no champion yet"
        found = "; ".join(verdict.text for verdict in (judged.failed or judged.verdicts))
        return {
            "passed": "no" if judged.failed else "yes",
            "champion": judged.previous,
            "run_url": judged.run_url,
            "verdicts": found[:1500],
            "text": f"{'refused' if judged.failed else 'passed'}, against {against}: {found}"[:1500],
        }

    def promote(self) -> Result:
        """Make it the champion. Raises Refused where there is another champion by now that it does not better."""
        from pipeline.promotion import promote

        model_uri = self.results["train"]["model_uri"]
        promotion = promote(model_uri, self.asked.protocol, self.asked.gates, why=self.why, experiment=self._experiment)
        if not promotion.promoted:
            found = "; ".join(verdict.text for verdict in promotion.failed)
            raise Refused(f"{model_uri} is not promoted: version {promotion.previous} is champion now: {found}")
        before = promotion.previous if promotion.previous != promotion.version else ""
        return {
            "name": promotion.name,
            "version": promotion.version,
            "previous": before,
            "run_url": promotion.run_url,
            "text": f"models:/{promotion.name}@champion is version {promotion.version}"
            + (f", before version {before}" if before else ""),
        }

    @property
    def _experiment(self) -> str:
        return self.asked.config.experiment


def _gone_on_with(config: RunConfig) -> RunConfig:
    """The configuration to go on with the run of `config`'s name. InputError where that is a run of something else."""
    stored = replace(stored_config(config.storage, config.name), storage=config.storage)
    return resumed_config(stored, {path: value for path, value in flat(config.to_dict()).items() if path != "storage"})
