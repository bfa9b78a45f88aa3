"""Where validation runs: beside training only where there is room, and nothing needs the score at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from encnet import ModelConfig
from pipeline.config import RunConfig, ValidationConfig, WorkersConfig
from pipeline.errors import InputError
from pipeline.validation_beside import is_beside

CPU = {"CPU": 1.0}
GPU = {"CPU": 1.0, "GPU": 1.0}


def _config(where: Literal["auto", "in_loop", "beside"], patience: int = 0) -> RunConfig:
    return RunConfig(
        model=ModelConfig(num_classes=3),
        workers=WorkersConfig(num=2),
        validation=ValidationConfig(where=where, patience=patience),
    )


@pytest.mark.parametrize(
    ("where", "resources", "needs", "beside"),
    [
        ("auto", {"CPU": 8.0}, CPU, False),
        ("auto", {"CPU": 8.0, "GPU": 3.0}, GPU, True),
        ("auto", {"CPU": 8.0, "GPU": 2.0}, GPU, False),
        ("auto", {"CPU": 2.0, "GPU": 3.0}, GPU, False),
        ("in_loop", {"CPU": 8.0, "GPU": 3.0}, GPU, False),
        ("beside", {"CPU": 8.0, "GPU": 3.0}, GPU, True),
        ("beside", {"CPU": 3.0}, CPU, True),
    ],
)
def test_where(
    where: Literal["auto", "in_loop", "beside"], resources: dict[str, float], needs: dict[str, float], beside: bool
) -> None:
    assert is_beside(_config(where), resources, needs) is beside
    if where == "auto":
        assert not is_beside(_config(where, patience=3), resources, needs)


def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        is_beside(_config("beside"), {"CPU": 8.0, "GPU": 2.0}, GPU)
    assert str(caught.value) == (
        "validation.where: 'beside' needs 1 CPU and 1 GPU more than 2 workers take, which the cluster does not have: "
        "use in_loop, or fewer workers"
    )
    with pytest.raises(InputError, match=r"^validation.where: 'beside' gives the scores too late for validation.pat"):
        is_beside(_config("beside", patience=2), {"CPU": 8.0}, CPU)
    more = replace(_config("beside"), workers=WorkersConfig(num=4, least=1))
    with pytest.raises(InputError, match="needs 1 CPU more than 4 workers take"):
        is_beside(more, {"CPU": 4.0}, CPU)
