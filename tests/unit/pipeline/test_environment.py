"""Environment variables set for a while."""

from __future__ import annotations

import os

import pytest

from pipeline.environment import overridden


def test_what_was_there_comes_back_after_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCNET_TEST_OLD", "old")
    monkeypatch.delenv("ENCNET_TEST_NEW", raising=False)
    with pytest.raises(KeyError, match="it failed"):
        _fail_inside()
    assert os.environ["ENCNET_TEST_OLD"] == "old"
    assert "ENCNET_TEST_NEW" not in os.environ


def _fail_inside() -> None:
    with overridden({"ENCNET_TEST_OLD": "1", "ENCNET_TEST_NEW": "2"}):
        assert (os.environ["ENCNET_TEST_OLD"], os.environ["ENCNET_TEST_NEW"]) == ("1", "2")
        raise KeyError("it failed")
