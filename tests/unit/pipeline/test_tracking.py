"""What tracking does before it has a server: addresses refused, names and digests made fit."""

from __future__ import annotations

import json
import os
import socket

import pytest
import requests
from mlflow.exceptions import MlflowException, RestException

from pipeline import tracking
from pipeline.errors import InputError, TrackingError


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


def _answer(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("said so", response=response)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "too long"}), tracking.Refused),
        (RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no run"}), TrackingError),
        (RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "busy"}), tracking.Unreachable),
        (RestException({"error_code": "INTERNAL_ERROR", "message": "locked"}), tracking.Unreachable),
        (MlflowException("API request failed"), tracking.Unreachable),
        (_answer(413), tracking.Refused),
        (_answer(403), TrackingError),
        (_answer(502), tracking.Unreachable),
        (ConnectionResetError("reset"), tracking.Unreachable),
        (json.JSONDecodeError("a proxy's page", "<html>", 0), tracking.Unreachable),
    ],
)
def test_what_may_succeed_later_is_told_from_what_never_will(
    error: Exception, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://here:1")
    explained = tracking.explain(error, "it")
    assert type(explained) is kind
    assert str(explained).startswith("MLflow at http://here:1: it: ")
