"""Ray's view of storage."""

from __future__ import annotations

import pickle

import pytest

from pipeline.cluster import PatientS3, split_storage


def test_a_folder_is_a_path_of_every_node() -> None:
    assert split_storage("/shared/runs") == (None, "/shared/runs")


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9000", ""])
def test_a_copy_in_another_process_is_as_patient(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    filesystem, path = split_storage("s3://bucket/runs/mine")
    assert path == "bucket/runs/mine"
    copy = pickle.loads(pickle.dumps(filesystem))  # noqa: S301
    assert isinstance(copy, PatientS3)
    assert copy.__reduce__() == filesystem.__reduce__()
