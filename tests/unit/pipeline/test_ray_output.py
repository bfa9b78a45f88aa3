"""Ray's output on the driver's terminal: noise goes, all else stays."""

from __future__ import annotations

import sys

import pytest

from pipeline.ray_output import sifted_output

NOISE = (
    "(TrainController pid=16010) [2026-11-23 08:27:27,546 E 16010 16086] core_worker.cc:2465: Actor with class name: "
    "'PreemptionWatcher' and ID: 'b6b8' has constructor arguments in the object store and max_restarts > 0. If ..."
)
EXPECTED = (
    "(TrainController pid=24227) Graceful shutdown of backend failed. This is expected if one of the workers has "
    "crashed.",
    "(TrainController pid=24227) Traceback (most recent call last):",
    "(TrainController pid=24227) ray.exceptions.ActorDiedError: The actor died unexpectedly.",
)


def test_noise_goes_and_warnings_stay(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_COLOR_PREFIX", "0")
    before = sys.stderr
    with sifted_output():
        for line in (
            "one",
            *EXPECTED,
            NOISE,
            "(raylet) a node is out of memory",
            "",
            NOISE,
            NOISE,
            "(TrainController pid=1) last",
        ):
            print(line, file=sys.stderr)
        sys.stderr.flush()
        assert not sys.stderr.isatty()
    assert sys.stderr is before
    assert capsys.readouterr().err == "one\n(raylet) a node is out of memory\n\n(TrainController pid=1) last\n"
