"""The recipes against what METHOD and the layouts of the data sets say: sizes, classes, schedules, stages."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import click
import pytest
from click.testing import CliRunner

import encnet
from pipeline.config import RunConfig
from pipeline.datasets import ade20k, camvid, cityscapes, coco_stuff, context_scenes, pascal_context, voc2012
from pipeline.datasets.layout import Layout
from pipeline.schedule import learning_rate, num_steps
from workflows.recipes import RECIPES
from workflows.train import train

LAYOUTS: dict[str, Layout] = {
    "context_scenes_r18": context_scenes.LAYOUT,
    "camvid_r18": camvid.LAYOUT,
    "camvid_r50": camvid.LAYOUT,
    "pcontext_r50": pascal_context.LAYOUT_59,
    "pcontext_r101": pascal_context.LAYOUT_59,
    "ade20k_r50": ade20k.LAYOUT,
    "ade20k_r101": ade20k.LAYOUT,
    "voc2012_r101_coco": coco_stuff.LAYOUT,
    "voc2012_r101_aug": voc2012.AUGMENTED,
    "voc2012_r101": voc2012.LAYOUT,
    "cityscapes_r50": cityscapes.LAYOUT,
    "cityscapes_r101": cityscapes.LAYOUT,
}
PUBLISHED_SIZES = {"resnet50": (36.06e6, 33.58e6), "resnet101": (55.05e6, 52.58e6)}
"""In training, and without auxiliary head and SE branch, of mmsegmentation's EncNet with 150 classes."""
WITH_PUBLISHED_SIZE = [name for name in RECIPES if not name.endswith("r18")]
STEPS = {
    "camvid_r50": 150 * 367 / 8,
    "pcontext_r50": 80 * 4998 / 16,
    "pcontext_r101": 80 * 4998 / 16,
    "ade20k_r50": 120 * 20210 / 16,
    "ade20k_r101": 120 * 20210 / 16,
    "voc2012_r101_coco": 30 * 118287 / 16,
    "voc2012_r101_aug": 80 * 10582 / 16,
    "voc2012_r101": 50 * 1464 / 16,
    "cityscapes_r50": 80_000,
    "cityscapes_r101": 80_000,
}
RATES = {"pcontext": 0.001, "ade20k": 0.01, "cityscapes": 0.01}


def test_every_recipe_is_tested() -> None:
    assert set(LAYOUTS) == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_it_fits_its_data_set_and_can_be_stored(name: str) -> None:
    config = RECIPES[name]()
    assert config.recipe == name
    assert config.model.num_classes == len(LAYOUTS[name].classes)
    assert RunConfig.from_dict(config.to_dict()) == config
    assert encnet.model_cost(config.model, config.augment.crop_size).training.parameters > 1e6


@pytest.mark.parametrize("name", WITH_PUBLISHED_SIZE)
def test_its_network_has_the_published_size(name: str) -> None:
    model = RECIPES[name]().model
    training, inference = PUBLISHED_SIZES[model.backbone]
    left_out = 150 - model.num_classes
    head, aux, se = (left_out * (width + 1) for width in (512, 256, 512))
    lateral = 0
    if model.lateral:
        branches = (512 + 1024) * 512 + 2 * 2 * 512
        lateral = branches + 3 * 512 * 512 * 9 + 2 * 512
    cost = encnet.model_cost(model)
    assert cost.training.parameters == pytest.approx(training - head - aux - se + lateral, abs=5e3)
    assert cost.inference.parameters == pytest.approx(inference - head + lateral, abs=5e3)


@pytest.mark.parametrize("name", RECIPES)
def test_its_fcn_twin_is_the_same_without_context(name: str) -> None:
    config = RECIPES[name]()
    twin = config.override({"model.arch": "fcn"})
    assert replace(twin, model=config.model) == config
    cost, whole = encnet.model_cost(twin.model), encnet.model_cost(config.model)
    assert cost.context.parameters == cost.se.parameters == 0
    assert cost.backbone == whole.backbone
    assert cost.aux_head == whole.aux_head


@pytest.mark.parametrize("name", STEPS)
def test_its_schedule_is_as_long_as_published(name: str) -> None:
    steps = num_steps(LAYOUTS[name].published_counts["train"], RECIPES[name]().optim)
    assert 0 <= steps - STEPS[name] < 1


@pytest.mark.parametrize("name", [name for name in STEPS if name.split("_")[0] in RATES])
def test_its_learning_rate_is_the_published_one(name: str) -> None:
    config, steps = RECIPES[name](), 1000
    of_city = name.startswith("cityscapes")
    assert learning_rate(0, steps, config.optim) == RATES[name.split("_")[0]]
    least = 1e-4 if of_city else 0.0
    half = least + (RATES[name.split("_")[0]] - least) * 0.5**0.9
    assert learning_rate(500, steps, config.optim) == pytest.approx(half)
    assert config.optim.head_lr_factor == (1.0 if of_city else 10.0)
    assert config.optim.weight_decay == (5e-4 if of_city else 1e-4)
    assert config.optim.batch_size == (8 if of_city else 16)


def test_what_the_code_bases_do_differently() -> None:
    configs = {name: RECIPES[name]() for name in STEPS}
    assert {name for name, one in configs.items() if one.model.lateral} == {
        name for name in configs if name.startswith(("pcontext", "voc", "camvid"))
    }
    assert {name for name, one in configs.items() if not one.model.align_corners} == {
        name for name in configs if name.startswith(("cityscapes", "camvid"))
    }
    for name, config in configs.items():
        turned = config.augment.rotate_degrees, config.augment.blur
        of_mmseg = config.augment.cat_max_ratio, config.augment.photometric, config.loss.aux_weight
        if name.startswith("cityscapes"):
            assert (turned, of_mmseg) == ((0, 0), (0.75, True, 0.4))
        elif not name.startswith("camvid"):
            assert (turned, of_mmseg) == ((10, 0.5), (1, False, 0.2))
            sizes = (640, (576, 576)) if name == "ade20k_r101" else (520, (480, 480))
            assert (config.augment.base_size, config.augment.crop_size) == sizes
        assert (config.augment.scale_min, config.augment.scale_max) == (0.5, 2.0)
        assert config.start_weights.startswith(("https://", "models:/"))


def test_the_stages_of_voc_begin_where_the_one_before_ended() -> None:
    stages = [RECIPES[name]() for name in ("voc2012_r101_coco", "voc2012_r101_aug", "voc2012_r101")]
    for before, after in pairwise(stages):
        assert after.start_weights == f"models:/{before.registered_model}@candidate"
        assert replace(after.model, num_classes=before.model.num_classes) == before.model
    assert [stage.optim.lr for stage in stages] == [0.004, 0.001, 0.0001]


@pytest.mark.parametrize("name", RECIPES)
def test_its_docstring_says_how_to_run_it_and_what_to_expect(name: str) -> None:
    text = RECIPES[name].__doc__ or ""
    summary, empty, *rest = text.splitlines()
    assert summary.endswith(".")
    assert empty == ""
    body = "\n".join(rest)
    assert f"encnet train {name} --data s3://encnet/data/" in body
    assert any(unit in text for unit in ("hour", "minute"))
    if name in STEPS:
        assert "an estimate" in body
        assert "A100" in body
        assert "ublished" in body


def test_help_lists_them_in_a_narrow_terminal() -> None:
    assert isinstance(train, click.Command)
    shown = CliRunner().invoke(train, ["--help"], terminal_width=80).output
    listed = shown[shown.index("Recipes:") :].splitlines()[1:]
    assert [line.split()[0] for line in listed if line.strip()] == list(RECIPES)
    assert max(map(len, listed)) <= 80, listed
