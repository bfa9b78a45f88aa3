"""What the signature of a registered model lets through to it, on each of MLflow's ways in."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models.utils import _enforce_params_schema, _enforce_schema
from mlflow.utils.proto_json_utils import parse_tf_serving_input

from pipeline.registration import SIGNATURE

IMAGES = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)


def test_arrays_and_files_pass_as_they_are() -> None:
    files = np.array([b"\xff\xd8\x00", b"\x89PNG\x00"], object)
    for given in (IMAGES, files):
        passed = _enforce_schema(given, SIGNATURE.inputs)
        assert passed is given
    table = _enforce_schema(pd.DataFrame({"image": list(files)}), SIGNATURE.inputs)
    assert table.tolist() == files.tolist()


@pytest.mark.parametrize("key", ["inputs", "instances"])
def test_json_passes_as_texts_and_as_numbers(key: str) -> None:
    texts = parse_tf_serving_input({key: ["aGk=", "aG8="]}, SIGNATURE.inputs)
    assert _enforce_schema(texts, SIGNATURE.inputs).tolist() == ["aGk=", "aG8="]
    numbers = parse_tf_serving_input(json.loads(json.dumps({key: IMAGES.tolist()})), SIGNATURE.inputs)
    passed = _enforce_schema(numbers, SIGNATURE.inputs)
    assert passed.shape == IMAGES.shape
    assert np.array_equal(passed.astype(np.uint8), IMAGES)


def test_probabilities_are_off_unless_they_are_asked_for() -> None:
    assert _enforce_params_schema(None, SIGNATURE.params) == {"probabilities": False}
    assert _enforce_params_schema({"probabilities": True}, SIGNATURE.params) == {"probabilities": True}
    with pytest.raises(MlflowException, match="probabilities"):
        _enforce_params_schema({"probabilities": "often"}, SIGNATURE.params)
