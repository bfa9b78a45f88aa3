"""What a version tells of itself, and which URIs name one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.registry import Version, digest_weights, find_version


def version(**tags: str) -> Version:
    return Version(name="street", number="4", created=datetime(2026, 11, 23, tzinfo=UTC), tags=tags)


def test_a_version_s_score_is_the_evaluation_s_if_there_was_one() -> None:
    assert version().miou is None
    assert version(**{"val/best_miou": "0.475000"}).miou == 0.475
    assert version(**{"val/best_miou": "0.475000", "eval/val/miou": "0.481"}).miou == 0.481
    assert version().uri == "models:/street/4"


@pytest.mark.parametrize(
    "uri", ["street", "models:/street", "models:/street/newest", "models:/street@", "runs:/1/model"]
)
def test_what_names_no_version_is_refused_before_anything_is_asked(uri: str) -> None:
    with pytest.raises(InputError) as caught:
        find_version(uri)
    assert str(caught.value) == f"MODEL: {uri!r}: write models:/NAME@ALIAS or models:/NAME/VERSION"


def test_the_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"abc")
    assert digest_weights(tmp_path / "weights").startswith("ba7816bf8f01cfea414140de5dae2223b00361a39617")
