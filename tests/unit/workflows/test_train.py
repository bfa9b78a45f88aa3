"""`encnet train` before it meets a cluster: recipes, their fields as options, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from encnet import build_model
from pipeline.config import field_help
from pipeline.errors import InputError
from pipeline.resume import store_config
from workflows.recipes import RECIPES
from workflows.train import changed_fields, recipe_config, recipe_list, resumed, train


def test_an_unknown_recipe_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        recipe_config("camvid_r81", {})
    assert str(caught.value) == "RECIPE: 'camvid_r81': no such recipe: did you mean 'camvid_r18'?"
    with pytest.raises(InputError, match=r"no such recipe: known: ade20k_r101, ade20k_r50, camvid_r18, "):
        recipe_config("xyz", {})


def test_every_field_is_an_option_with_its_help() -> None:
    options = {option: parameter for parameter in train.params for option in parameter.opts}
    for path, text in field_help().items():
        if path != "recipe":
            parameter = options[f"--{path.replace('_', '-')}"]
            assert getattr(parameter, "help", None) == text


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_says_its_name_and_can_be_built(name: str) -> None:
    config = recipe_config(name, {"optim.max_steps": "3"})
    assert config.recipe == name
    assert config.optim.max_steps == 3
    assert config.augment.crop_size[0] % 8 == config.augment.crop_size[1] % 8 == 0
    assert sum(parameter.numel() for parameter in build_model(config.model).parameters()) > 1e6
    summary = (RECIPES[name].__doc__ or "").splitlines()[0]
    assert f"{name} " in recipe_list()
    assert summary in recipe_list()


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({"num_workers": None, "optim__lr": "1"}, {"optim.lr": "1"}),
        ({"num_workers": "3"}, {"workers.least": "0", "workers.num": "3"}),
        ({"num_workers": "1:4"}, {"workers.least": "1", "workers.num": "4"}),
        ({"num_workers": "4", "workers__least": "2"}, {"workers.least": "2", "workers.num": "4"}),
        ({"data": "s3://x"}, {"data.uri": "s3://x"}),
    ],
)
def test_short_options_stand_for_fields(given: dict[str, str | None], fields: dict[str, str]) -> None:
    assert changed_fields(given) == fields


def test_bounds_of_workers_are_checked() -> None:
    for number, said in (
        ("4:1", "workers.least: 4 is above num 1: give the fewest first, as in 1:4"),
        ("1:", "workers.num: '': "),
        ("x:2", "workers.least: 'x': "),
    ):
        with pytest.raises(InputError) as caught:
            recipe_config("camvid_r18", changed_fields({"num_workers": number}))
        assert str(caught.value).startswith(said)


def test_a_run_is_resumed_as_it_was_stored(tmp_path: Path) -> None:
    stored = recipe_config("camvid_r18", {"name": "mine", "storage": str(tmp_path), "optim.lr": "0.02"})
    store_config(stored)
    storage = {"storage": str(tmp_path)}
    assert resumed("mine", None, dict(storage)) == stored
    assert resumed("mine", "camvid_r18", {**storage, "workers.num": "3"}).workers.num == 3
    with pytest.raises(InputError, match=r"^RECIPE: 'camvid_r50', but the run 'mine' is one of 'camvid_r18'"):
        resumed("mine", "camvid_r50", dict(storage))
    with pytest.raises(InputError, match=r"^name: a run that is resumed keeps its name"):
        resumed("mine", None, {**storage, "name": "other"})


def test_storage_must_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENCNET_STORAGE", raising=False)
    with pytest.raises(InputError, match=r"^storage: empty: run 'encnet stack up', or give --storage s3://BUCKET/PRE"):
        resumed("mine", None, {})
    monkeypatch.setenv("ENCNET_STORAGE", str(tmp_path))
    with pytest.raises(InputError, match=f"^resume: no run 'mine' in {tmp_path}/runs"):
        resumed("mine", None, {})


def test_a_recipe_or_a_run_must_be_named() -> None:
    with pytest.raises(InputError, match=r"^RECIPE: missing: name one of .*camvid_r18.*, or a run with --resume"):
        train.callback(None, None, False, False)  # type: ignore[misc]
