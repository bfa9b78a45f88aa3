"""Which aliases are moved in which order, and that whatever is ended in the middle can be done again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.alias_moves import ChampionChanged, Move, plan_promotion, plan_rollback
from pipeline.errors import InputError

VERSIONS = st.sampled_from(["1", "2", "3", "4"])
ALIASES = st.dictionaries(st.sampled_from(["candidate", "champion", "previous"]), VERSIONS)


def after(aliases: Mapping[str, str], moves: Sequence[Move]) -> dict[str, str]:
    """The aliases once these moves are made."""
    found = {**aliases, **{move.alias: move.version for move in moves}}
    return {alias: version for alias, version in found.items() if version}


def test_the_first_champion_has_none_before_it() -> None:
    moves = plan_promotion("street", {"candidate": "1"}, "1", "")
    assert moves == [Move(alias="champion", version="1")]


def test_the_champion_before_is_kept_and_moved_first() -> None:
    moves = plan_promotion("street", {"candidate": "4", "champion": "3", "previous": "1"}, "4", "3")
    assert moves == [Move(alias="previous", version="3"), Move(alias="champion", version="4")]


@pytest.mark.parametrize(
    ("aliases", "judged_against", "words"),
    [
        ({"champion": "4"}, "3", "version 3 was champion, and now version 4 is: somebody else has moved it meanwhile"),
        ({"champion": "4"}, "", "there was no champion, and now version 4 is"),
        ({}, "3", "version 3 was champion, and now none is"),
    ],
)
def test_a_champion_that_nobody_was_judged_against_stays(
    aliases: dict[str, str], judged_against: str, words: str
) -> None:
    with pytest.raises(ChampionChanged) as caught:
        plan_promotion("street", aliases, "5", judged_against)
    assert str(caught.value).startswith(f"street version 5 was judged when {words}")
    assert str(caught.value).endswith("promote again, to be judged against that")


@given(aliases=ALIASES, version=VERSIONS, num_done=st.integers(0, 2))
def test_a_promotion_that_was_ended_is_finished_by_another(
    aliases: dict[str, str], version: str, num_done: int
) -> None:
    champion = aliases.get("champion", "")
    moves = plan_promotion("street", aliases, version, champion)
    broken = after(aliases, moves[:num_done])
    assert broken.get("champion", "") in (champion, version), "there never is none, nor a third one"
    again = plan_promotion("street", broken, version, broken.get("champion", ""))
    assert after(broken, again) == after(aliases, moves)
    assert after(aliases, moves)["champion"] == version
    if champion not in ("", version):
        assert after(aliases, moves)["previous"] == champion
    assert after(aliases, moves).get("candidate") == aliases.get("candidate")


@given(aliases=ALIASES.filter(lambda aliases: "previous" in aliases), num_done=st.integers(0, 2))
def test_a_rollback_goes_back_once_however_often_it_is_broken_off(aliases: dict[str, str], num_done: int) -> None:
    moves = plan_rollback("street", aliases)
    end = after(aliases, moves)
    assert end["champion"] == aliases["previous"]
    assert "previous" not in end
    broken = after(aliases, moves[:num_done])
    if num_done < len(moves):
        assert after(broken, plan_rollback("street", broken)) == end
    with pytest.raises(InputError, match=r"^NAME: 'street' has no previous champion to go back to \(version \d is"):
        plan_rollback("street", end)


@given(aliases=ALIASES.filter(lambda aliases: len({*aliases.values()}) > 1), version=VERSIONS)
def test_a_rollback_undoes_a_promotion(aliases: dict[str, str], version: str) -> None:
    champion = aliases.get("champion", "")
    if champion in ("", version):
        return
    promoted = after(aliases, plan_promotion("street", aliases, version, champion))
    assert after(promoted, plan_rollback("street", promoted))["champion"] == champion


def test_where_there_never_was_a_champion_there_is_nothing_to_go_back_to() -> None:
    with pytest.raises(InputError, match=r"\(there is no champion\): promote another version, see 'encnet models li"):
        plan_rollback("street", {"candidate": "1"})
