"""The generic folder: its classes file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.datasets import Request, find_layout
from pipeline.errors import InputError
from tests.unit.pipeline import made_up_sources as sources
from tests.unit.pipeline.made_up_sources import read_all, write_lines


@pytest.mark.parametrize(
    ("lines", "classes", "palette"),
    [
        (["road 128 64 128", "traffic light 250 170 30"], ("road", "traffic light"), ((128, 64, 128), (250, 170, 30))),
        (["road", "traffic light", "", ""], ("road", "traffic light"), ((128, 0, 0), (0, 128, 0))),
        (["  lane 2 ", "lane 1"], ("lane 2", "lane 1"), ((128, 0, 0), (0, 128, 0))),
    ],
)
def test_a_classes_file_gives_names_and_colours(
    lines: list[str], classes: tuple[str, ...], palette: tuple[tuple[int, int, int], ...], tmp_path: Path
) -> None:
    sources.own_folder(tmp_path)
    write_lines(tmp_path / "classes.txt", lines)
    source = find_layout("folder").open(Request(source=tmp_path))
    assert (source.classes, source.palette) == (classes, palette)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "{}: names 0 classes: give 1 to 255, one a line"),
        ([f"class {number}" for number in range(256)], "{}: names 256 classes: give 1 to 255, one a line"),
        (["a", "", "b"], "{}:2: is empty: each line names the class of its id, counted from 0"),
        (["a", "b", "a"], "{}:3: 'a' stands on line 1 too: change one"),
        (["a 1 2 3", "b 1 2 3"], "{}:2: (1, 2, 3) stands on line 1 too: change one"),
        (["a 1 2 3", "b"], "{}: gives 1 of 2 classes a colour: give it to all or to none"),
        (["a 1 2 256"], "{}:1: (1, 2, 256) is no colour: give red, green and blue from 0 to 255"),
    ],
)
def test_a_classes_file_that_can_not_be_used(lines: list[str], message: str, tmp_path: Path) -> None:
    sources.own_folder(tmp_path)
    path = write_lines(tmp_path / "classes.txt", lines)
    with pytest.raises(InputError) as caught:
        find_layout("folder").open(Request(source=tmp_path))
    assert str(caught.value) == message.replace("{}", str(path))


def test_a_folder_needs_classes_splits_and_ids_below_their_number(tmp_path: Path) -> None:
    made = sources.own_folder(tmp_path)
    write_lines(tmp_path / "classes.txt", ["road", "sky"])
    with pytest.raises(InputError) as caught:
        read_all(made.request, "folder")
    assert str(caught.value) == (
        f"{tmp_path}/annotations/test/a.png: holds the id 2: "
        "ids are 0 to 1, as in classes.txt, and 255 for what is ignored"
    )
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(InputError) as caught:
        read_all(made.request, "folder")
    assert str(caught.value) == (
        f"{tmp_path}/classes.txt: there is no such file: write the classes' names there, one a line"
    )
    write_lines(tmp_path / "empty/classes.txt", ["road"])
    with pytest.raises(InputError) as caught:
        read_all(Request(source=tmp_path / "empty"), "folder")
    assert str(caught.value) == (
        f"{tmp_path}/empty/images: holds no folders: put each split's images into one, as images/train and images/val"
    )
