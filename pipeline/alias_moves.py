"""Which aliases a promotion or a rollback moves, in which order: pure functions of the aliases there are.

The order is such that whoever is ended between two moves leaves the champion that there was or the new one, and that
the same thing done again finishes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import InputError, PipelineError
from pipeline.registry import CHAMPION, PREVIOUS


class ChampionChanged(PipelineError):
    """The champion is no longer the one that the candidate was judged against."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """An alias that is to point at a version; '' takes the alias away."""

    alias: str
    version: str


def plan_promotion(name: str, aliases: Mapping[str, str], version: str, judged_against: str) -> list[Move]:
    """Make `version` the champion, and the champion that there is `previous`; nothing where it is so already.

    `judged_against`: the version that was champion when the candidate was judged; '' for none.

    Raises ChampionChanged where another one is champion by now.
    """
    champion = aliases.get(CHAMPION, "")
    if champion == version:
        return []
    if champion != judged_against:
        was = f"version {judged_against} was champion" if judged_against else "there was no champion"
        raise ChampionChanged(
            f"{name} version {version} was judged when {was}, and now {f'version {champion}' if champion else 'none'} "
            "is: somebody else has moved it meanwhile: promote again, to be judged against that"
        )
    return [*([Move(alias=PREVIOUS, version=champion)] if champion else []), Move(alias=CHAMPION, version=version)]


def plan_rollback(name: str, aliases: Mapping[str, str]) -> list[Move]:
    """Make `previous` the champion again. There is no `previous` after that, so that it does not go back and forth.

    Raises InputError where there is nothing to go back to.
    """
    previous = aliases.get(PREVIOUS)
    if previous is None:
        known = f"version {aliases[CHAMPION]} is champion" if CHAMPION in aliases else "there is no champion"
        raise InputError(
            f"NAME: {name!r} has no previous champion to go back to ({known}): promote another version, see "
            f"'encnet models list {name}'"
        )
    back = [] if aliases.get(CHAMPION) == previous else [Move(alias=CHAMPION, version=previous)]
    return [*back, Move(alias=PREVIOUS, version="")]
