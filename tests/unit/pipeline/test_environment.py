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


def test_blocks_of_several_threads_end_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCNET_TEST_OLD", "old")
    first, second = overridden({"ENCNET_TEST_OLD": "1", "ENCNET_TEST_NEW": "1"}), overridden({"ENCNET_TEST_OLD": "2"})
    first.__enter__()
    second.__enter__()
    assert (os.environ["ENCNET_TEST_OLD"], os.environ["ENCNET_TEST_NEW"]) == ("2", "1")
    first.__exit__(None, None, None)
    assert os.environ["ENCNET_TEST_OLD"] == "2"
    assert "ENCNET_TEST_NEW" not in os.environ
    second.__exit__(None, None, None)
    assert os.environ["ENCNET_TEST_OLD"] == "old"


def _fail_inside() -> None:
    with overridden({"ENCNET_TEST_OLD": "1", "ENCNET_TEST_NEW": "2"}):
        assert (os.environ["ENCNET_TEST_OLD"], os.environ["ENCNET_TEST_NEW"]) == ("1", "2")
        raise KeyError("it failed")
