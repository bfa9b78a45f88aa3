"""Data sets written, indexed and verified by Ray tasks: the same bytes and the same words as on this machine alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from pipeline.shard_runner import on_threads
from pipeline.shards import read_dataset
from pipeline.storage import Store, open_store
from tests.integration.command import json_result, run_encnet
from tests.running_stack import RunningStack
from tests.unit.pipeline import made_up_sources
from tests.unit.pipeline.test_shard_writer import write_scenes

BUCKET = "s3://encnet/tests/on-ray"
ON_RAY = """
import sys
from pipeline.shard_runner import on_ray
from pipeline.storage import open_store
from tests.unit.pipeline.test_shard_writer import write_scenes
write_scenes(open_store(sys.argv[1]), on_ray)
"""


@pytest.fixture(autouse=True)
def running(stack: RunningStack) -> RunningStack:
    """Every test here needs the cluster and the object store."""
    return stack


def objects(uri: str) -> dict[str, bytes]:
    store = open_store(uri)
    return {key: store.read(key) for key in store.list()}


@pytest.fixture(scope="module")
def undisturbed(stack: RunningStack) -> dict[str, bytes]:
    """What is written on this machine, in one go."""
    write_scenes(open_store(f"{BUCKET}/undisturbed"), partial(on_threads, num_threads=1))
    return objects(f"{BUCKET}/undisturbed")


def _on_ray(uri: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", ON_RAY, uri], stderr=subprocess.PIPE, text=True)


def _finished(store: Store) -> set[str]:
    return {key.removesuffix(".done.json") for key in store.list("train/") if key.endswith(".done.json")}


def test_ray_tasks_write_the_same_bytes(undisturbed: dict[str, bytes]) -> None:
    process = _on_ray(f"{BUCKET}/whole")
    assert process.communicate(timeout=300)[1].count("Traceback") == 0
    assert process.returncode == 0
    assert objects(f"{BUCKET}/whole") == undisturbed


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_what_was_ended_in_the_middle_is_finished_by_the_next_run(
    number: signal.Signals, undisturbed: dict[str, bytes]
) -> None:
    uri = f"{BUCKET}/ended-by-{number}"
    store = open_store(uri)
    process = _on_ray(uri)
    deadline = time.monotonic() + 120
    while len(_finished(store)) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0, "it had finished before it was ended"
    finished = _finished(store)
    assert 3 <= len(finished) < 19
    assert not store.exists("dataset.json")
    versions = {key: store.read_versioned(f"{key}.tar", 0, 1).version for key in finished}
    process = _on_ray(uri)
    assert process.communicate(timeout=300)[0] is None
    assert process.returncode == 0
    assert objects(uri) == undisturbed
    assert {key: store.read_versioned(f"{key}.tar", 0, 1).version for key in finished} == versions


def test_the_verbs_say_the_same_on_ray_and_here(tmp_path: Path) -> None:
    sizes = ("--train-samples", "40", "--val-samples", "10", "--json")
    here, there = f"{BUCKET}/here", f"{BUCKET}/there"
    prepare = ("data", "prepare", "context-scenes", *sizes)
    told = json_result(run_encnet(*prepare, "--dest", here))
    told_on_ray = json_result(run_encnet(*prepare, "--dest", there, "--ray"))
    assert {**told, "uri": there} == told_on_ray
    assert objects(here) == objects(there)
    verified = json_result(run_encnet("data", "verify", there, "--ray", "--json"))
    assert {name: split["samples"] for name, split in verified["splits"].items()} == {"train": 40, "val": 10}
    assert not any(split["faults"] for split in verified["splits"].values())
    (tmp_path / "classes.txt").write_text("\n".join(read_dataset(open_store(here)).classes))
    index = ("data", "index", there, "--classes", str(tmp_path / "classes.txt"), "--force", "--json")
    indexed = json_result(run_encnet(*index))
    assert json_result(run_encnet(*index, "--ray")) == indexed


def test_what_is_wrong_is_one_line_with_exit_code_2(tmp_path: Path) -> None:
    made_up_sources.ade20k(tmp_path / "in")
    (tmp_path / "in/images/validation/ADE_val_00000001.jpg").write_bytes(b"no image")
    arguments = ("data", "prepare", "ade20k", "--source", "in", "--dest", "out")
    done = run_encnet(*arguments, "--ray", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "encnet: images/validation/ADE_val_00000001.jpg: the image can't be read (is neither JPEG nor PNG "
        "(it begins with b'no image')): replace or remove it"
    )
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == run_encnet(*arguments, cwd=tmp_path).stderr.splitlines()[-1]


def test_a_shard_that_can_t_be_read_is_one_line_with_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/0.tar").write_bytes(b"no tar" * 100)
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    done = run_encnet("data", "index", str(tmp_path), "--classes", str(tmp_path / "classes.txt"), "--ray")
    assert done.returncode == 1
    assert f"encnet: {tmp_path}/train/0.tar: has no tar header at byte 0" in done.stderr.splitlines()[-1]


def test_a_cluster_that_is_not_there_is_named() -> None:
    environ = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    done = run_encnet("data", "prepare", "context-scenes", "--dest", f"{BUCKET}/none", "--ray", environ=environ)
    assert done.returncode == 2
    assert done.stderr.startswith("encnet: stack is not up: RAY_ADDRESS: nothing listens at 127.0.0.1:1")
