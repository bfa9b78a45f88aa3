"""Import: what the card of an imported version says, and which checkpoints are refused before anything is stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import encnet
from pipeline.errors import InputError
from pipeline.imported_model import ImportedCard, digest_tensors, import_checkpoint
from pipeline.model_card import MAX_DESCRIPTION
from pipeline.shards import DatasetInfo
from tests.unit.encnet.foreign import MMSegmentation
from tests.unit.pipeline.made_up_data import CLASSES, write_made_up


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DatasetInfo]:
    folder = tmp_path_factory.mktemp("data")
    return folder, write_made_up(folder, num_train=2, num_val=1)


def checkpoint(path: Path, num_classes: int) -> Path:
    torch.manual_seed(0)
    torch.save({"state_dict": MMSegmentation(num_classes, 8, 4).state_dict()}, path)
    return path


def test_the_card_says_where_it_comes_from_and_that_it_was_not_measured(made_up: tuple[Path, DatasetInfo]) -> None:
    card = ImportedCard(
        network=encnet.ModelConfig(num_classes=4, backbone="resnet18", stem="deep64"),
        dataset=made_up[1],
        data_uri="s3://encnet/data/made-up",
        source="https://download.openmmlab.com/encnet.pth",
        layout="mmsegmentation",
        tensors_digest="ab" * 32,
        licence="Apache-2.0",
        run_id="r" * 32,
        commit="f" * 40,
    )
    text = card.text("street", "2")
    assert text.startswith("# street, version 2\n\nEncNet on a resnet18 that labels each pixel")
    for fact in (
        "`https://download.openmmlab.com/encnet.pth`, with the names of mmsegmentation",
        f"`{'ab' * 32}`",
        "those of made-up (`s3://encnet/data/made-up`), in its order",
        "- Nothing of it was measured here when it was imported: evaluate it before it is used.",
        "- Weights: Apache-2.0.",
    ):
        assert fact in text
    assert card.description("street", "2") == text[:MAX_DESCRIPTION]
    assert card.tags()["imported from"] == "https://download.openmmlab.com/encnet.pth"
    assert card.tags()["data set digest"] == made_up[1].digest
    assert card.scores() == {}


def test_the_digest_of_tensors_is_that_of_what_they_hold() -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7), "half": torch.ones(2, dtype=torch.bfloat16)}
    other_order = dict(reversed(state.items()))
    assert digest_tensors(state) == digest_tensors(other_order)
    strided = {**state, "a": torch.arange(6.0).reshape(2, 3).t().contiguous().t()}
    assert digest_tensors(state) == digest_tensors(strided)
    for change in (
        {"a": torch.arange(6.0).reshape(3, 2)},
        {"a": torch.arange(6.0).reshape(2, 3) + 1},
        {"b": torch.tensor(7.0)},
        {"c": torch.zeros(0)},
    ):
        assert digest_tensors({**state, **change}) != digest_tensors(state)


@pytest.mark.parametrize(
    ("name", "layout", "words"),
    [
        ("none.pth", "auto", "none.pth: no such file: check the path"),
        ("broken.pth", "auto", "broken.pth: not a readable torch checkpoint ("),
        (
            "theirs.pth",
            "torchvision",
            "theirs.pth: has the names of mmsegmentation, not of torchvision: leave",
        ),
        ("backbone.pth", "auto", "backbone.pth: holds no whole model: build one, and load_weights("),
    ],
)
def test_what_can_t_be_imported_is_named(
    made_up: tuple[Path, DatasetInfo],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    layout: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "broken.pth").write_bytes(b"broken")
    torch.save(encnet.build_model(encnet.ModelConfig(num_classes=4, backbone="resnet18")).backbone.state_dict(),
               tmp_path / "backbone.pth")  # fmt: skip
    checkpoint(tmp_path / "theirs.pth", len(CLASSES))
    with pytest.raises(InputError) as caught:
        import_checkpoint(name, "street", str(made_up[0]), layout=layout)
    assert str(caught.value).startswith(f"FILE: {words}")


def test_the_classes_must_be_as_many_as_the_data_set_s(
    made_up: tuple[Path, DatasetInfo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = checkpoint(tmp_path / "theirs.pth", 7)
    with pytest.raises(InputError, match=r"^data: 'made-up' has 4 classes, but the checkpoint has 7: name the"):
        import_checkpoint(str(path), "street", str(made_up[0]))
    with pytest.raises(InputError, match=r"no dataset\.json there"):
        import_checkpoint(str(path), "street", str(tmp_path))
