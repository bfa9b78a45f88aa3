"""What tracking does before it has a server: addresses refused, names and digests made fit."""

from __future__ import annotations

import os
import re
import socket

import pytest

from pipeline import tracking
from pipeline.errors import InputError


def test_without_an_address_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError) as caught:
        tracking.connect()
    assert str(caught.value) == (
        "MLFLOW_TRACKING_URI: not set: run 'encnet stack up', or name your MLflow server in it"
    )


def test_a_dead_address_is_named_and_the_environment_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound, not listening: nobody else can be there
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
        monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
        monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        with pytest.raises(InputError) as caught:
            tracking.connect()
    message = str(caught.value)
    assert message.startswith(f"MLFLOW_TRACKING_URI: '{uri}' does not answer: run 'encnet stack up', or check ")
    assert "\n" not in message
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_metric_names_hold_only_what_mlflow_takes() -> None:
    assert tracking.metric_name("val/iou/wall, brick (old)") == "val/iou/wall_ brick _old_"
    assert tracking.metric_name("val/iou/road-1.b:c_d e") == "val/iou/road-1.b:c_d e"


def test_digests_fit() -> None:
    assert tracking.short_digest("ab" * 32) == "ab" * 18
    assert tracking.short_digest("abc") == "abc"


def test_the_submitter_s_commit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCNET_GIT_COMMIT", "feed-dirty")
    assert tracking.git_commit() == "feed-dirty"
    monkeypatch.delenv("ENCNET_GIT_COMMIT")
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", tracking.git_commit())
