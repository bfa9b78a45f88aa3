"""Images predicted with a registered model: from S3 to S3, on Ray's workers and here, also after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.datasets import context_scenes
from pipeline.sample_reader import decode_ids
from pipeline.shards import read_dataset
from pipeline.storage import Store, open_store
from tests.integration.command import ENCNET, json_result, run_encnet
from tests.integration.conftest import Trained

MODEL = "models:/encnet-tiny@candidate"
IMAGES = "s3://encnet/tests/predict/images"
BROKEN = "night/frame7.jpg"
NUM_IMAGES = 24


@pytest.fixture(scope="module")
def images(trained: Trained) -> str:
    """Frames in two folders of a prefix, one of them broken, beside a text file."""
    store = open_store(IMAGES)
    for number, sample in enumerate(context_scenes.samples("val", NUM_IMAGES, seed=3)):
        store.write(f"{'night' if number % 2 else 'day'}/frame{number}.jpg", sample.image)
    store.write(BROKEN, store.read(BROKEN)[:500])
    store.write("day/notes.txt", b"no image")
    return IMAGES


def objects(store: Store) -> dict[str, bytes]:
    return {key: store.read(key) for key in store.list()}


@pytest.fixture(scope="module")
def undisturbed(images: str) -> dict[str, bytes]:
    """What is written in one go in one process, one image at a time."""
    output = "s3://encnet/tests/predict/undisturbed"
    done = run_encnet("predict", MODEL, images, output, "--batch-size=1", "--json")
    told = json_result(done)
    assert (told["images"], told["predicted"], told["skipped"], told["passed_over"]) == (
        NUM_IMAGES,
        NUM_IMAGES - 1,
        0,
        1,
    )
    (bad,) = told["bad"]
    assert bad["input"] == f"{images}/{BROKEN}"
    assert f"bad image  {bad['input']}: {bad['error']}\n" in done.stderr
    assert done.stderr.splitlines()[-1] == f"warning: 1 of {NUM_IMAGES} images are bad: they have no results"
    return objects(open_store(output))


def test_results_have_names_sizes_classes_and_the_model(
    undisturbed: dict[str, bytes], trained: Trained, scenes: str
) -> None:
    names = {f"{'night' if number % 2 else 'day'}/frame{number}" for number in range(NUM_IMAGES)} - {BROKEN[:-4]}
    assert set(undisturbed) == {name + kind for name in names for kind in (".png", ".overlay.jpg", ".json")}
    classes = read_dataset(open_store(scenes)).classes
    for name in names:
        told = json.loads(undisturbed[f"{name}.json"])
        assert told["model"] == trained.result["model_uri"]
        assert set(told["shares"]) <= set(classes), "those of the data set that the run was trained on"
        assert sum(told["shares"].values()) == pytest.approx(1, abs=1e-4)
        assert 1 / len(classes) <= told["confidence"] <= 1
        assert decode_ids(undisturbed[f"{name}.png"]).shape == (told["height"], told["width"])


def test_ray_s_workers_write_the_same(images: str, undisturbed: dict[str, bytes]) -> None:
    output = "s3://encnet/tests/predict/on-ray"
    command = ("predict", MODEL, images, output, "--batch-size=1", "--ray", "--num-workers=2", "--json")
    told = json_result(run_encnet(*command))
    assert (told["predicted"], len(told["bad"])) == (NUM_IMAGES - 1, 1)
    found = objects(open_store(output))
    assert set(found) == set(undisturbed)
    for key in (key for key in found if key.endswith(".png")):
        # A worker has one core, and sums in another order.
        assert (decode_ids(found[key]) == decode_ids(undisturbed[key])).mean() > 0.999
    again = json_result(run_encnet(*command))
    assert (again["predicted"], again["skipped"], len(again["bad"])) == (0, NUM_IMAGES - 1, 1)


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGKILL, -signal.SIGKILL, marks=pytest.mark.long), (signal.SIGTERM, 143)],
)
def test_what_was_ended_in_the_middle_is_gone_on_with(
    number: signal.Signals, code: int, images: str, undisturbed: dict[str, bytes]
) -> None:
    output = f"s3://encnet/tests/predict/ended-by-{number}"
    store = open_store(output)
    options = ("--batch-size=1", "--scales=0.75,1,1.5,2", "--flip")
    process = subprocess.Popen(
        [*ENCNET, "predict", MODEL, images, output, *options], env=os.environ, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while _finished(store) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(timeout=60) == code, "it had finished before it was ended"
    finished = {key: store.read_versioned(key, 0, 1).version for key in store.list() if key.endswith(".json")}
    assert 3 <= len(finished) < NUM_IMAGES - 1
    told = json_result(run_encnet("predict", MODEL, images, output, *options, "--json"))
    assert (told["predicted"], told["skipped"]) == (NUM_IMAGES - 1 - len(finished), len(finished))
    assert set(store.list()) == set(undisturbed)
    assert {key: store.read_versioned(key, 0, 1).version for key in finished} == finished


def _finished(store: Store) -> int:
    return sum(key.endswith(".json") for key in store.list())


def test_patterns_and_single_objects_of_s3_go_into_a_folder(images: str, trained: Trained, tmp_path: Path) -> None:
    told = json_result(
        run_encnet("predict", MODEL, f"{images}/n*/frame1?.jpg", f"{images}/day/frame0.jpg", str(tmp_path), "--json")
    )
    assert told["predicted"] == 6
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")}
    assert names == {"frame0.json", *(f"night/frame{number}.json" for number in (11, 13, 15, 17, 19))}


def test_a_data_set_that_is_gone_is_named_before_anything_is_done(images: str, tmp_path: Path) -> None:
    done = run_encnet("predict", MODEL, images, str(tmp_path / "out"), "--data", "s3://encnet/tests/none")
    assert done.returncode == 2
    assert done.stderr.startswith("encnet: s3://encnet/tests/none: no dataset.json there: ")
    assert not (tmp_path / "out").exists()
