"""What is said of a value that isn't one of the choices."""

from __future__ import annotations

from typing import Any

import pytest

from encnet.choices import check_choice


@pytest.mark.parametrize("value", [8.0, True, "8", None, [8]])
def test_a_choice_is_of_its_type(value: Any) -> None:
    check_choice("stride", 8, (8, 1))
    with pytest.raises(ValueError, match=r"stride: .* is not a choice: "):
        check_choice("stride", value, (8, 1))


def test_names_the_nearest_or_all() -> None:
    with pytest.raises(ValueError, match=r"^stem: 'plan' is not a choice: did you mean 'plain'\?$"):
        check_choice("stem", "plan", ("plain", "deep64"))
    with pytest.raises(ValueError, match=r"^stem: 'x' is not a choice: choose from plain, deep64$"):
        check_choice("stem", "x", ("plain", "deep64"))
