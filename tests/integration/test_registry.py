"""The registry against a real MLflow server: versions listed and pulled, and one champion at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

import encnet
from pipeline import champion, tracking
from pipeline.alias_moves import ChampionChanged
from pipeline.errors import InputError, PipelineError
from pipeline.promotion_trail import Grounds, read_trail
from pipeline.pulled_model import pull_model
from pipeline.registration import WEIGHTS_DIGEST
from pipeline.registry import digest_weights, find_aliases, find_version, list_versions
from pipeline.registry_lease import CLAIM, Watch, lease
from pipeline.verdicts import Verdict
from tests.integration.lone_mlflow import Proxy
from tests.integration.running import wait_until
from tests.integration.test_tracking import CONFIG, DATASET, register, weights

__all__ = ["weights"]  # a fixture
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # MLflow's own, of its types

NUM_RIVALS = 3
RIVAL = """
import sys, time
from pathlib import Path
from pipeline.alias_moves import ChampionChanged
from pipeline.champion import crown
from pipeline.promotion_trail import Grounds

name, version, judged_against, folder = sys.argv[1:]
Path(folder, version).touch()
while not Path(folder, "go").exists():
    time.sleep(0.001)
try:
    print("won" if crown(name, version, judged_against, why="a race", grounds=Grounds()) else "was it")
except ChampionChanged as error:
    print(error)
"""
HOLDER = """
import sys, time
from pipeline import tracking
from pipeline.registry_lease import lease

with lease(tracking.connect(), sys.argv[1], "ann@gone"):
    print("held", flush=True)
    time.sleep(600)
"""


def street(client: MlflowClient, name: str, num_versions: int) -> str:
    """A registered model of so many versions without contents."""
    client.create_registered_model(name)
    for _ in range(num_versions):
        client.create_model_version(name, "s3://nowhere/model")
    return name


def test_versions_are_listed_the_newest_first_with_what_is_known(
    way: Proxy, mlflow_client: MlflowClient, run_id: str, weights: Path
) -> None:
    street(mlflow_client, "listed-empty", 0)
    first, second = (register(weights, run_id, step, name="listed") for step in (10, 20))
    assert list_versions("listed-empty") == []
    found = list_versions("listed")
    assert [version.number for version in found] == [second, first]
    assert [version.aliases for version in found] == [("candidate",), ()]
    newest = found[0]
    assert (newest.run_id, newest.miou, newest.uri) == (run_id, 0.475, f"models:/listed/{second}")
    assert newest.tags["data set"] == DATASET.name
    assert newest.tags["data set digest"] == DATASET.digest
    assert newest.tags["network"] == "EncNet, resnet18"
    assert newest.tags[WEIGHTS_DIGEST] == digest_weights(weights)
    assert newest == find_version("models:/listed@candidate") == find_version(f"models:/listed/{second}")
    assert [version for version in list_versions() if version.name == "listed"] == found
    for uri in ("models:/listed@champion", "models:/listed/99", "models:/no-such@champion"):
        with pytest.raises(InputError, match=rf"^MODEL: '{uri}': .*: see 'encnet models list'$"):
            find_version(uri)
    with pytest.raises(InputError, match=r"^NAME: 'no-such': .*no-such"):
        list_versions("no-such")


def test_what_is_pulled_is_whole_checked_and_not_pulled_again(
    way: Proxy, mlflow_client: MlflowClient, run_id: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (register(weights, run_id, step, name="pulled") for step in (10, 20))
    pulled = pull_model("models:/pulled@candidate")
    assert pulled.folder == tmp_path / f"pulled-v{second}"
    assert {path.name for path in pulled.folder.iterdir()} == {
        "weights.safetensors",
        "config.json",
        "model_card.md",
        "origin.json",
    }
    assert digest_weights(pulled.folder / "weights.safetensors") == pulled.digest == digest_weights(weights)
    config = encnet.ModelConfig.from_dict(json.loads((pulled.folder / "config.json").read_text()))
    assert config == CONFIG.model == encnet.read_config(pulled.folder / "weights.safetensors")
    assert (pulled.folder / "model_card.md").read_text().startswith(f"# pulled, version {second}\n")
    origin = json.loads((pulled.folder / "origin.json").read_text())
    assert (origin["model_uri"], origin["data set digest"]) == (f"models:/pulled/{second}", DATASET.digest)

    before = way.num_requests
    assert pull_model(f"models:/pulled/{second}", pulled.folder).was_there
    num_for_a_look = way.num_requests - before
    (pulled.folder / "weights.safetensors").write_bytes(b"damaged")
    assert not pull_model(f"models:/pulled/{second}", pulled.folder).was_there
    assert way.num_requests - before > 2 * num_for_a_look, "it was downloaded anew"
    assert digest_weights(pulled.folder / "weights.safetensors") == pulled.digest

    with pytest.raises(InputError, match=rf"^DEST: '.*' holds models:/pulled/{second}: choose another one, or replace"):
        pull_model(f"models:/pulled/{first}", pulled.folder)
    assert pull_model(f"models:/pulled/{first}", pulled.folder, replace=True).model_uri == f"models:/pulled/{first}"
    (pulled.folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"is there already and holds other files: choose another folder$"):
        pull_model(f"models:/pulled/{second}", pulled.folder, replace=True)
    assert (pulled.folder / "notes.txt").read_text() == "mine"
    with pytest.raises(InputError, match=r"is a file: choose a folder$"):
        pull_model(f"models:/pulled/{second}", pulled.folder / "notes.txt")

    mlflow_client.set_model_version_tag("pulled", second, WEIGHTS_DIGEST, "ab" * 32)
    with pytest.raises(PipelineError, match=r"and abababababab was registered: they are damaged, or were replaced"):
        pull_model(f"models:/pulled/{second}", tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [pulled.folder.name]


def test_of_rivals_one_wins_and_the_others_are_told(way: Proxy, mlflow_client: MlflowClient, tmp_path: Path) -> None:
    name = street(mlflow_client, "raced", 1 + NUM_RIVALS)
    champion.appoint(name, "1", why="the first")
    versions = [str(number) for number in range(2, 2 + NUM_RIVALS)]
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", RIVAL, name, version, "1", str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for version in versions
    ]
    wait_until(lambda: all((tmp_path / version).exists() for version in versions), 240, "the rivals")
    (tmp_path / "go").touch()
    told = dict(zip(versions, (rival.communicate(timeout=240)[0].strip() for rival in rivals), strict=True))
    assert [rival.returncode for rival in rivals] == [0] * NUM_RIVALS
    (winner,) = (version for version, words in told.items() if words == "won")
    for version, words in told.items():
        if version != winner:
            assert words == (
                f"{name} version {version} was judged when version 1 was champion, and now version {winner} is: "
                "somebody else has moved it meanwhile: promote again, to be judged against that"
            )
    assert find_aliases(name) == {"champion": winner, "previous": "1"}
    assert not [tag for tag in mlflow_client.get_registered_model(name).tags if tag.startswith(CLAIM)]
    assert [(entry.outcome, entry.version, entry.before) for entry in read_trail(name)] == [
        ("promoted", winner, "1"),
        ("appointed", "1", ""),
    ]


def test_a_holder_that_was_killed_holds_nobody_up_for_ever(way: Proxy, mlflow_client: MlflowClient) -> None:
    name = street(mlflow_client, "held", 1)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, name], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGKILL)
        assert holder.wait(60) == -signal.SIGKILL
    assert list(mlflow_client.get_registered_model(name).tags.values()) == ["ann@gone"]
    began = time.monotonic()
    with lease(tracking.connect(), name, "ben", watch=Watch(dead_after_s=2)):
        assert list(mlflow_client.get_registered_model(name).tags.values()) == ["ben"]
    assert time.monotonic() - began >= 2
    assert mlflow_client.get_registered_model(name).tags == {}


def test_what_is_moved_leaves_a_trail_and_goes_back_once(way: Proxy, mlflow_client: MlflowClient) -> None:
    name = street(mlflow_client, "moved", 3)
    assert champion.appoint(name, "1", why="the first") is not None
    verdicts = (Verdict(gate="mIoU", passed=True, text="mIoU: +2.0 points over the champion: more than noise"),)
    grounds = Grounds(
        verdicts=verdicts, scores={"candidate/miou": 0.7}, links={"evaluation": "http://mlflow/1", "other": ""}
    )
    entry = champion.crown(name, "2", "1", why="new frames", grounds=grounds)
    assert entry is not None
    assert champion.crown(name, "2", "1", why="again", grounds=grounds) is None, "done again, it is done"
    with pytest.raises(ChampionChanged):
        champion.crown(name, "3", "1", why="too late", grounds=grounds)
    assert find_aliases(name) == {"champion": "2", "previous": "1"}
    run = mlflow_client.get_run(entry.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "moved v2: promoted")
    assert run.data.metrics == {"candidate/miou": 0.7}
    assert run.data.tags["why"] == "new frames"
    assert run.data.tags["evaluation"] == "http://mlflow/1"
    note = run.data.tags["mlflow.note.content"].splitlines()
    assert note[0] == f"**version 2 promoted over 1 by {entry.who}: new frames**"
    assert note[2:] == [f"- {verdicts[0].text}", "- [evaluation](http://mlflow/1)"]
    tag = mlflow_client.get_model_version(name, "2").tags["promoted"]
    assert tag.endswith(f" UTC: version 2 promoted over 1 by {entry.who}: new frames")

    back = champion.rollback(name, "flickers")
    assert (back.outcome, back.version, back.before) == ("rolled back", "1", "2")
    assert find_aliases(name) == {"champion": "1"}
    with pytest.raises(InputError, match=r"^NAME: 'moved' has no previous champion to go back to \(version 1 is champ"):
        champion.rollback(name)
    trail = read_trail(name)
    assert [(entry.outcome, entry.version, entry.before, entry.why) for entry in trail] == [
        ("rolled back", "1", "2", "flickers"),
        ("promoted", "2", "1", "new frames"),
        ("appointed", "1", "", "the first"),
    ]
    assert trail[1].text == entry.text
    with pytest.raises(InputError, match=r"^NAME: 'no-such': "):
        champion.rollback("no-such")


def test_an_mlflow_that_goes_away_in_the_middle_leaves_a_champion(way: Proxy, mlflow_client: MlflowClient) -> None:
    name = street(mlflow_client, "cut-off", 2)
    champion.appoint(name, "1", why="the first")
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    try:
        for num_left in range(2, 60, 3):
            way.num_left = num_left
            try:
                champion.crown(name, "2", "1", why="again", grounds=Grounds())
                break
            except (tracking.Unreachable, tracking.NoServer):
                way.num_left = None
                assert find_aliases(name)["champion"] in ("1", "2")
                for tag in mlflow_client.get_registered_model(name).tags:  # or each try would wait for the last one's
                    mlflow_client.delete_registered_model_tag(name, tag)
    finally:
        way.num_left = None
        del os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
    assert num_left > 5
    assert find_aliases(name) == {"champion": "2", "previous": "1"}
