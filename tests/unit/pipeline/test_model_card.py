"""The model card: what it must say, and how long it may be."""

from __future__ import annotations

from dataclasses import replace
from math import nan

import pytest

import encnet
from pipeline.config import DataConfig, OptimConfig, RunConfig
from pipeline.model_card import MAX_DESCRIPTION, ModelCard
from pipeline.shards import DatasetInfo, SplitInfo

SPLIT = SplitInfo(samples=367, shards=1, bytes=1000, digest="ab" * 32, class_pixels=(10, 20, 30))


def make_card(num_classes: int = 3, start_weights: str = "", ema_decay: float = 0.0) -> ModelCard:
    classes = tuple(f"class number {place}" for place in range(num_classes))
    dataset = DatasetInfo(
        name="camvid",
        version="1",
        classes=classes,
        palette=((0, 0, 0),) * num_classes,
        splits={"train": SPLIT, "val": replace(SPLIT, samples=101)},
    )
    config = RunConfig(
        recipe="camvid_r18",
        name="tuesday",
        start_weights=start_weights,
        data=DataConfig(uri="s3://encnet/data/camvid"),
        optim=OptimConfig(lr=0.05, ema_decay=ema_decay),
        model=encnet.ModelConfig(num_classes=num_classes, backbone="resnet18"),
    )
    iou = {name: nan if place == 1 else place / num_classes for place, name in enumerate(classes)}
    return ModelCard(
        config=config, dataset=dataset, run_id="r" * 32, commit="f" * 40, step=120, steps=300, miou=0.65432, iou=iou
    )


def test_the_card_says_what_it_is_and_what_it_was_made_from() -> None:
    card = make_card()
    text = card.text("encnet-camvid", "3")
    assert text.startswith("# encnet-camvid, version 3\n\nEncNet on a resnet18 that labels each pixel")
    for fact in (
        "**mIoU 65.43 % on val of camvid**, with the weights of step 120 of 300.",
        "camvid (`s3://encnet/data/camvid`): 367 samples to train on, 101 to validate",
        f"`{card.dataset.digest}`",
        "camvid_r18: sgd, lr 0.05 poly, batch 16",
        "| start weights | none: random |",
        f"tuesday (MLflow run `{'r' * 32}`",
        f"`{'f' * 40}`",
        "| class number 1 | – |",
        "| class number 2 | 66.67 |",
        'mlflow.pyfunc.load_model("models:/encnet-camvid/3")',
        "- Weak at: class number 0 (0 %).",
        "- Not measured, since val has none: class number 1.",
    ):
        assert fact in text
    assert card.description("encnet-camvid", "3") == text
    assert "averaged over steps" in make_card(ema_decay=0.99).text("a", "1")


@pytest.mark.parametrize("num_classes", [19, 59, 150])
def test_a_description_is_no_longer_than_mlflow_keeps(num_classes: int) -> None:
    card = make_card(num_classes, start_weights="https://download.openmmlab.com/pretrain/resnet101_v1c-e67eebb6.pth")
    description = card.description("encnet-made-up", "12")
    assert len(description) <= MAX_DESCRIPTION
    assert description.endswith("its publisher's terms hold for what is trained on it; see there.\n")
    if num_classes == 150:
        assert f"| class number {num_classes - 1} | 99.33 |" in description
        assert "| class number 75 |" not in description
        assert "| class number 75 | 50.00 |" in card.text("encnet-made-up", "12")


@pytest.mark.parametrize(
    ("source", "terms"),
    [
        ("https://download.openmmlab.com/pretrain/resnet50_v1c.pth", "Apache-2.0"),
        ("https://download.pytorch.org/models/resnet50.pth", "BSD-3-Clause"),
        ("models:/encnet-coco@champion", "see its card"),
        ("/data/mine.pth", "not known: ask where they come from"),
    ],
)
def test_the_terms_of_the_start_weights_are_told(source: str, terms: str) -> None:
    (line,) = [
        line for line in make_card(start_weights=source).text("a", "1").splitlines() if "- Start weights" in line
    ]
    assert terms in line


def test_the_tags_of_a_version_are_the_facts_that_one_looks_for() -> None:
    card = make_card(start_weights="https://download.pytorch.org/models/resnet50.pth")
    assert card.tags() == {
        "data set": "camvid",
        "data set digest": card.dataset.digest,
        "network": "EncNet, resnet18",
        "licence": "start weights: torchvision's: BSD-3-Clause; trained on ImageNet, whose terms are for research",
    }
    assert make_card().tags()["licence"] == "of the training data alone"
    assert card.scores() == {"val/best_miou": 0.65432}
