"""Champions on the real stack: imported, measured, refused, promoted, served by MLflow, pulled and rolled back."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import encnet
from infra.local import ports
from infra.local.parts import program
from pipeline.registry import find_version, list_versions, resolve_model
from pipeline.shard_writer import write_dataset
from pipeline.shards import Sample
from pipeline.storage import open_store
from pipeline.transforms import decode_image
from tests.integration.command import ENCNET, json_result, run_encnet
from tests.running_stack import RunningStack
from tests.unit.encnet.foreign import MMSegmentation
from tests.unit.pipeline.made_up_data import CLASSES, PALETTE, make_samples

NAME = "encnet-made-up"
DATA = "s3://encnet/tests/made-up"
CONFIG = encnet.ModelConfig(
    num_classes=len(CLASSES), backbone="resnet18", head_channels=32, num_codes=4, se_loss=False, aux=False
)
NUM_STEPS = 40


@dataclass(frozen=True)
class Files:
    """Checkpoints: a random one by mmsegmentation's names, ours after training, and one that is hardly another."""

    foreign: Path
    trained: Path
    alike: Path


@pytest.fixture(scope="module")
def samples(stack: RunningStack) -> list[Sample]:
    """Those of a split of the data set at DATA."""
    val = make_samples(8, seed=1, sizes=((40, 56),))
    store = open_store(DATA)
    store.ensure_bucket()
    splits = {"train": make_samples(4, sizes=((40, 56),)), "val": val}
    write_dataset(store, splits, name="made-up", version="1", classes=CLASSES, palette=PALETTE, samples_per_shard=8)
    return val


@pytest.fixture(scope="module")
def files(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A model that has learnt the very images that it is judged on, beside one that has learnt nothing."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    torch.save({"state_dict": MMSegmentation(len(CLASSES), 32, 4).state_dict()}, folder / "theirs.pth")
    images = np.stack([decode_image(sample.image, "png") for sample in samples])
    labels = torch.from_numpy(np.stack([sample.label for sample in samples])).long()
    network = encnet.build_model(CONFIG).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(NUM_STEPS):
        loss = torch.nn.functional.cross_entropy(network(encnet.normalize(torch.from_numpy(images))).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    encnet.save_weights(network, CONFIG, folder / "trained.safetensors")
    with torch.no_grad():
        network.head.classifier.weight *= 1.0001
    encnet.save_weights(network, CONFIG, folder / "alike.safetensors")
    return Files(folder / "theirs.pth", folder / "trained.safetensors", folder / "alike.safetensors")


def register(file: Path, *options: str) -> str:
    """Import a file; returns its URI."""
    done = run_encnet("models", "import", str(file), f"--name={NAME}", f"--data={DATA}", *options, "--json")
    return str(json_result(done)["model_uri"])


def promote(uri: str, *options: str) -> subprocess.CompletedProcess[str]:
    return run_encnet("models", "promote", uri, *options, "--json")


@pytest.fixture(scope="module")
def first(files: Files) -> str:
    """The first champion: an imported checkpoint, evaluated by its alias."""
    uri = register(files.foreign, "--layout=mmsegmentation", "--licence=Apache-2.0")
    assert uri == f"models:/{NAME}/1" == register(files.foreign), "the same weights are registered once"
    evaluated = json_result(run_encnet("evaluate", f"models:/{NAME}@candidate", f"--data={DATA}", "--json"))
    assert evaluated["model_uri"] == uri
    done = promote(f"models:/{NAME}@candidate", "--why=there is none yet")
    told = json_result(done)
    assert (told["promoted"], told["moved"], told["previous"]) == (True, True, "")
    assert told["miou"] == pytest.approx(evaluated["miou"]), "what was evaluated is not evaluated again"
    assert "evaluate models:" not in done.stderr
    return uri


@pytest.fixture(scope="module")
def second(first: str, files: Files) -> str:
    """A better one, promoted over it."""
    uri = register(files.trained)
    judged = promote(uri, f"--data={DATA}", "--dry-run")
    assert not json_result(judged)["promoted"]
    told = json_result(promote(uri, f"--data={DATA}", "--why=it has learnt something"))
    assert (told["promoted"], told["previous"]) == (True, "1")
    assert told["miou"] > told["champion_miou"]
    assert all(verdict["passed"] for verdict in told["verdicts"])
    return uri


def test_an_imported_version_has_all_that_is_to_be_known(first: str, files: Files) -> None:
    version = find_version(first)
    assert version.tags["layout"] == "mmsegmentation"
    assert version.tags["licence"] == "Apache-2.0"
    assert version.tags["imported from"] == str(files.foreign)
    assert version.tags["data set"] == "made-up"
    assert "with the names of mmsegmentation" in version.card
    with resolve_model(first) as resolved:
        network, config = encnet.load_model(resolved.weights)
    theirs, _ = encnet.load_model(files.foreign)
    assert (config.backbone, config.stem, config.lateral) == ("resnet18", "deep64", True)
    assert all(torch.equal(*pair) for pair in zip(network.parameters(), theirs.parameters(), strict=True))


def test_large_weights_go_to_the_object_store_in_parts(first: str) -> None:
    store = open_store("s3://mlflow")
    (weights,) = (key for key in store.list() if find_version(first).model_id in key and key.endswith(".safetensors"))
    assert store.size(weights) > 40e6
    etag = store.versions(weights)[weights].strip('"')
    assert int(etag.partition("-")[2]) > 1, "as S3 has it for what came in parts"


def test_a_candidate_that_is_no_better_is_refused_and_moves_nothing(first: str, second: str, files: Files) -> None:
    alike = register(files.alike)
    for uri, words in ((first, "worse by more than noise"), (alike, "not more than noise")):
        done = promote(uri, "--why=a try")
        assert done.returncode == 1, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        assert (told["promoted"], told["moved"], told["previous"]) == (False, False, "2")
        said = done.stderr.splitlines()[-1]
        number = uri.rpartition("/")[2]
        assert said.startswith(f"encnet: {NAME} version {number} does not become champion: mIoU: ")
        assert f"over the champion: {words}" in said
    assert find_version(f"models:/{NAME}@champion").uri == second
    assert find_version(f"models:/{NAME}@previous").uri == first
    assert promote(second).returncode == 0, "the champion is no candidate"


def test_the_list_shows_them(second: str) -> None:
    done = run_encnet("models", "list", NAME)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if "│" in line]
    (champion,) = (row for row in rows if "champion" in row)
    cells = [cell.strip() for cell in champion.split("│")]
    assert cells[2] == "2"
    assert "champion" in cells[3]
    assert f"{100 * (find_version(second).miou or 0):.2f}" in cells
    listed = json_result(run_encnet("models", "list", "--json"))["versions"]
    assert [one["model_uri"] for one in listed if one["name"] == NAME] == [one.uri for one in list_versions(NAME)]


def test_show_tells_the_registry_s_facts_and_the_history(second: str) -> None:
    done = run_encnet("models", "show", second, "--size=64x64")
    assert done.returncode == 0, done.stderr
    for fact in ("champion", "made-up", "weights sha256", "inference", ": it has learnt something"):
        assert fact in done.stdout
    told = json_result(run_encnet("models", "show", f"models:/{NAME}@champion", "--json"))
    assert told["config"]["num_codes"] == 4
    assert told["version"]["model_uri"] == second
    assert ("promoted", "2", "it has learnt something") in [
        (entry["outcome"], entry["version"], entry["why"]) for entry in told["history"]
    ]


def test_a_pulled_champion_predicts(second: str, samples: list[Sample], tmp_path: Path) -> None:
    told = json_result(run_encnet("models", "pull", f"models:/{NAME}@champion", str(tmp_path / "street"), "--json"))
    assert told["sha256"] == find_version(second).tags["weights sha256"]
    (tmp_path / "frame.png").write_bytes(samples[0].image)
    done = run_encnet(
        "predict", str(tmp_path / "street"), str(tmp_path / "frame.png"), str(tmp_path / "out"), "--data=none"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "frame.png").exists()


def consumer() -> dict[str, str]:
    """The environment of who uses a model: MLflow's programs on the path, and nothing unpickled."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}


@contextmanager
def serving(uri: str, log: Path) -> Iterator[str]:
    """The address of `mlflow models serve`, up."""
    port = ports.choose(["http"])["http"]
    command = [program("mlflow", "mlflow"), "models", "serve", "--model-uri", uri, "--env-manager", "local"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--host", ports.HOST, "--port", str(port)],
            env=consumer(),
            stdout=file,
            stderr=file,
        )
    address = f"http://{ports.HOST}:{port}"
    try:
        deadline = time.monotonic() + 240
        while not _answers(f"{address}/ping"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def ask(address: str, request: dict[str, Any]) -> Any:
    """POST to a served model; returns its predictions."""
    data = json.dumps(request).encode()
    post = urllib.request.Request(f"{address}/invocations", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(post, timeout=120) as answer:
        return json.loads(answer.read())["predictions"]


def test_mlflow_serves_the_champion_over_http(second: str, samples: list[Sample], tmp_path: Path) -> None:
    images = [decode_image(sample.image, "png") for sample in samples[:2]]
    texts = [base64.b64encode(sample.image).decode() for sample in samples[:2]]
    with resolve_model(second) as resolved, torch.inference_mode():
        network, _ = encnet.load_model(resolved.weights)
        shares = encnet.predict(network, encnet.normalize(torch.from_numpy(np.stack(images)))).numpy()
    expected = shares.argmax(1)
    with serving(f"models:/{NAME}@champion", tmp_path / "serve.log") as address:
        for inputs in (texts, [image.tolist() for image in images]):
            assert np.array_equal(ask(address, {"inputs": inputs}), expected)
        both = ask(address, {"inputs": texts, "params": {"probabilities": True}})
        assert np.array_equal(both["classes"], expected)
        np.testing.assert_allclose(both["probabilities"], shares, atol=1e-5)
        assert np.array_equal(
            ask(address, {"dataframe_split": {"columns": ["image"], "data": [[texts[0]]]}}), expected[:1]
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(address, {"inputs": ["no image"]})
        assert caught.value.code == 400
        assert "image 0: a text that is no base64: encode a JPEG or PNG file in it" in caught.value.read().decode()


def test_mlflow_predicts_from_a_file(second: str, samples: list[Sample], tmp_path: Path) -> None:
    request = {"inputs": [base64.b64encode(samples[0].image).decode()]}
    (tmp_path / "in.json").write_text(json.dumps(request))
    command = [program("mlflow", "mlflow"), "models", "predict", "--model-uri", f"models:/{NAME}@champion"]
    done = subprocess.run(
        [*command, "--env-manager", "local", "--input-path", "in.json", "--output-path", "out.json"],
        cwd=tmp_path,
        env=consumer(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    (classes,) = json.loads((tmp_path / "out.json").read_text())["predictions"]
    right = np.array(classes) == samples[0].label
    assert right.mean() > 0.5, "it has learnt this very image"


def test_of_two_promotions_at_once_one_wins(second: str, files: Files) -> None:
    """Both are better than version 1, which is champion again, and neither than the other."""
    alike = register(files.alike)
    assert run_encnet("models", "rollback", NAME, "--why=for the test").returncode == 0
    assert find_version(f"models:/{NAME}@champion").number == "1"
    rivals = [
        subprocess.Popen(
            [*ENCNET, "models", "promote", uri, "--yes"], env=os.environ, stdout=sys.stderr, stderr=subprocess.PIPE
        )
        for uri in (second, alike)
    ]
    said = [rival.communicate(timeout=300)[1].decode() for rival in rivals]
    assert sorted(rival.returncode for rival in rivals) == [0, 1], said
    winner = (second, alike)[[rival.returncode for rival in rivals].index(0)]
    assert find_version(f"models:/{NAME}@champion").uri == winner
    assert find_version(f"models:/{NAME}@previous").number == "1"


def test_a_rollback_is_one_command_and_done_once(second: str) -> None:
    champion = find_version(f"models:/{NAME}@champion")
    if champion.number == "1":
        assert promote(second).returncode == 0
        champion = find_version(second)
    told = json_result(run_encnet("models", "rollback", NAME, "--why=flickers", "--json"))
    assert (told["version"], told["before"]) == ("1", champion.number)
    assert find_version(f"models:/{NAME}@champion").number == "1"
    again = run_encnet("models", "rollback", NAME)
    assert again.returncode == 2
    assert again.stderr.startswith(
        f"encnet: NAME: {NAME!r} has no previous champion to go back to (version 1 is champion)"
    )
    assert again.stderr.count("\n") == 1
