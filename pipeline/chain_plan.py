"""The chain of `encnet run`: its steps, what each depends on, and which of them are to be done. Pure functions.

A step is known by its inputs, and those are what the steps before it gave. One whose inputs have not changed since it
was done is skipped; one that gives something else than before makes those after it be done again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pipeline.config import RunConfig, flat
from pipeline.errors import InputError
from pipeline.evaluation_plan import Protocol
from pipeline.gates import GatesConfig
from pipeline.resume import FREE

Step = Literal["prepare", "train", "evaluate", "gate", "promote"]
STEPS: tuple[Step, ...] = ("prepare", "train", "evaluate", "gate", "promote")
Results = Mapping[str, Mapping[str, str]]
"""Step -> what it gave, of the steps that are done."""
_NO_PART_OF_IT = (*FREE, "name", "storage", "experiment")
"""Fields, or sections with a dot at the end, that do not change what is trained."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a chain is asked to do."""

    config: RunConfig
    """Where `data.uri` is where the data set is, or is to be."""
    protocol: Protocol
    gates: GatesConfig

    @property
    def key(self) -> str:
        """sha256 (hex) of all of it: the same is asked for again by the same key."""
        return digest(
            {
                "config": config_identity(self.config),
                "data": self.config.data.uri,
                "model": self.config.registered_model,
                "protocol": self.protocol.identity,
                "gates": asdict(self.gates),
            }
        )


@dataclass(frozen=True, kw_only=True)
class Record:
    """A step that was done."""

    inputs: Mapping[str, str]
    result: Mapping[str, str]
    at: str
    """When, in UTC, for people."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of a step."""

    step: Step
    does: bool
    reason: str
    """For people: why it is done, or what it gave when it was."""


def config_identity(config: RunConfig) -> dict[str, Any]:
    """The fields that tell what is trained, by dotted name: not where, under which name, or on how many workers."""
    return {path: value for path, value in flat(config.to_dict()).items() if not path.startswith(_NO_PART_OF_IT)}


def digest(values: Mapping[str, Any]) -> str:
    """sha256 (hex) of plain values, in whatever order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def inputs_of(step: Step, asked: Asked, results: Results) -> dict[str, str] | None:
    """What a step depends on, by name, in short texts; None while a step before it has yet to give its part."""
    if any(before not in results for before in STEPS[: STEPS.index(step)]):
        return None
    if step == "prepare":
        return {"place": asked.config.data.uri}
    data = results["prepare"]["digest"]
    if step == "train":
        return {"data": data, "recipe": digest(config_identity(asked.config))[:16]}
    model = results["train"]["model_uri"]
    if step == "evaluate":
        return {"model": model, "data": data, "protocol": json.dumps(asked.protocol.identity, sort_keys=True)}
    gates = json.dumps(asdict(asked.gates), sort_keys=True)
    if step == "gate":
        return {"evaluation": results["evaluate"]["run_id"], "gates": gates}
    return {"model": model, "gates": gates}


def times_trained(done: Record | None, *, again: bool) -> int:
    """Which training of its inputs it is: 1, or one more than there were where it is to be done `again`."""
    return (int(done.result.get("times", "1")) if done else 0) + 1 if again else 1


def run_name(asked: Asked, data_digest: str, times: int) -> str:
    """The name of the training run, which tells its inputs: so one that broke off is found again."""
    identity = {"data": data_digest, "config": config_identity(asked.config)}
    name = asked.config.name or f"{asked.config.recipe}-{digest(identity)[:8]}"
    return name if times == 1 else f"{name}-{times}"


def decide(step: Step, inputs: Mapping[str, str] | None, done: Record | None, start: Step | None) -> Decision:
    """Whether a step is to be done. `start`: the first of those that are done whatever was done before.

    Raises InputError for a step before `start` that has not been done with these inputs.
    """
    if start and STEPS.index(step) >= STEPS.index(start):
        return Decision(step=step, does=True, reason=f"asked for with --from {start}")
    decision = _decide(step, inputs, done)
    if start and decision.does:
        raise InputError(f"from: {start!r}, but {step!r} has yet to be done ({decision.reason}): leave --from out")
    return decision


def _decide(step: Step, inputs: Mapping[str, str] | None, done: Record | None) -> Decision:
    if inputs is None:
        return Decision(step=step, does=True, reason="after the step before it")
    if done is None:
        return Decision(step=step, does=True, reason="not done yet")
    other = [name for name in {**inputs, **done.inputs} if inputs.get(name) != done.inputs.get(name)]
    if other:
        return Decision(step=step, does=True, reason=f"another {' and '.join(other)} than when it was done")
    return Decision(step=step, does=False, reason=f"done {done.at}: {done.result.get('text', '')}".removesuffix(": "))


def as_judged(done: Record, champion: str) -> Record:
    """The record of the gates, such that a refusal does not stand once there is another champion than it was by.

    `champion`: the version that is champion now; '' for none.
    """
    then = done.result.get("champion", "")
    if done.result.get("passed") == "no" and then != champion:
        return replace(done, inputs={**done.inputs, "champion": then})
    return done


def preview(asked: Asked, done: Mapping[str, Record], start: Step | None) -> list[Decision]:
    """All decisions, as far as they can be known before anything is done. Raises InputError as `decide` does."""
    decisions: list[Decision] = []
    results: dict[str, Mapping[str, str]] = {}
    for step in STEPS:
        decision = decide(step, inputs_of(step, asked, results), done.get(step), start)
        decisions.append(decision)
        if not decision.does:
            results[step] = done[step].result
    return decisions


def to_json(record: Record) -> str:
    """A record as it is kept."""
    # As few characters as can be: a tag has not room for many.
    return json.dumps(asdict(record), ensure_ascii=False)


def from_json(text: str) -> Record | None:
    """A record as it was kept; None for a text that is none: then the step counts as not done."""
    try:
        plain = json.loads(text)
        return Record(inputs=dict(plain["inputs"]), result=dict(plain["result"]), at=str(plain["at"]))
    except (ValueError, KeyError, TypeError):
        return None


def describe(decisions: Sequence[Decision]) -> list[dict[str, str]]:
    """Decisions as plain values."""
    return [{"step": one.step, "action": "run" if one.does else "skip", "reason": one.reason} for one in decisions]
