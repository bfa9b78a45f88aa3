"""`encnet train` before it meets a cluster: recipes, their fields as options, what is refused."""

from __future__ import annotations

import pytest

from encnet import build_model
from pipeline.config import field_help
from pipeline.errors import InputError
from workflows.recipes import RECIPES
from workflows.train import recipe_config, recipe_list, train


def test_an_unknown_recipe_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        recipe_config("camvid_r81", {})
    assert str(caught.value) == "RECIPE: 'camvid_r81': no such recipe: did you mean 'camvid_r18'?"
    with pytest.raises(InputError, match=r"no such recipe: known: camvid_r18, context_scenes_r18"):
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
