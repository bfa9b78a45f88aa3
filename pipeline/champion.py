"""The champion of a registered model: moved by one writer at a time, and never without a trail."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline import tracking
from pipeline.alias_moves import Move, plan_promotion, plan_rollback
from pipeline.errors import TrackingError
from pipeline.promotion_trail import Entry, Grounds, Outcome, close_entry, open_entry, this_person
from pipeline.registry import CHAMPION, find_aliases
from pipeline.registry_lease import Lease, lease

Plan = Callable[[Mapping[str, str]], list[Move]]
"""Aliases that there are -> what to move."""


def crown(
    name: str, version: str, judged_against: str, *, why: str, grounds: Grounds, experiment: str = "encnet"
) -> Entry | None:
    """Make a version that has passed the gates the champion; None: it is champion already.

    Raises ChampionChanged where the champion is not `judged_against` any more: that is looked up under the lease.
    """
    return _move(
        name,
        "promoted",
        lambda aliases: plan_promotion(name, aliases, version, judged_against),
        why=why,
        grounds=grounds,
        experiment=experiment,
    )


def appoint(name: str, version: str, *, why: str, experiment: str = "encnet") -> Entry | None:
    """Make a version the champion whatever the gates would say; None: it is champion already."""
    return _move(
        name,
        "appointed",
        lambda aliases: plan_promotion(name, aliases, version, aliases.get(CHAMPION, "")),
        why=why,
        grounds=Grounds(),
        experiment=experiment,
    )


def rollback(name: str, why: str = "", experiment: str = "encnet") -> Entry:
    """Make the champion before this one the champion again.

    Raises InputError where there is none to go back to, and TrackingError where MLflow fails.
    """
    entry = _move(
        name,
        "rolled back",
        lambda aliases: plan_rollback(name, aliases),
        why=why,
        grounds=Grounds(),
        experiment=experiment,
    )
    assert entry is not None  # a plan for a rollback has at least one move
    return entry


def _move(name: str, outcome: Outcome, plan: Plan, *, why: str, grounds: Grounds, experiment: str) -> Entry | None:
    """Move the aliases as planned, under the lease; the trail is begun before and finished after it."""
    client = tracking.connect()
    find_aliases(name)  # that there is no such model is the user's error, and no reason to claim it
    with lease(client, name, this_person()) as held:
        before = find_aliases(name)
        moves = plan(before)
        if not moves:
            return None
        after = {**before, **{move.alias: move.version for move in moves}}
        entry = open_entry(client, experiment, outcome, name, after[CHAMPION], before.get(CHAMPION, ""), why)
        try:
            _apply(client, name, moves, held)
        except BaseException:
            _end_as_failed(entry.run_id)
            raise
    close_entry(client, entry, grounds)
    return entry


def _apply(client: MlflowClient, name: str, moves: list[Move], held: Lease) -> None:
    for move in moves:
        held.check()
        try:
            if move.version:
                client.set_registered_model_alias(name, move.alias, move.version)
            else:
                client.delete_registered_model_alias(name, move.alias)
        except MlflowException as error:
            raise tracking.explain(error, f"{name}: {move.alias} could not be moved") from error


def _end_as_failed(run_id: str) -> None:
    """End an entry of the trail that did not come to pass; the error that is on its way says more than another."""
    try:
        tracking.Tracker(run_id).finish("FAILED")
    except (TrackingError, tracking.NoServer):
        return
