"""A folder of one's own: any splits, any classes.

images/{split}/X.jpg|jpeg|png    annotations/{split}/X.png    classes.txt

An annotation is one 8-bit channel, or has a palette; its ids are those of the classes, and 255 for what is ignored.
classes.txt has a class a line, in the order of the ids from 0 on: its name, and after it red, green and blue from 0 to
255 on all lines or on none.

    road 128 64 128
    traffic light 250 170 30
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.datasets.annotations import TrainIds, bit_colours, consecutive, read_text
from pipeline.datasets.labelled_files import pair_files, read_source
from pipeline.datasets.layout import Layout, Palette, Request, Source, chosen_splits, source_folder
from pipeline.errors import InputError
from pipeline.shards import IGNORE_INDEX

NAME = "folder"
CLASSES_FILE = "classes.txt"
_LINE = re.compile(r"(?P<name>\S.*?)(?:\s+(?P<red>\d+)\s+(?P<green>\d+)\s+(?P<blue>\d+))?")
Colour = tuple[int, int, int]


def read_classes(path: Path) -> tuple[tuple[str, ...], Palette]:
    """Names and colours; colours are made up where the file gives none. InputError naming file, line and remedy."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file: write the classes' names there, one a line")
    lines = read_text(path).rstrip().splitlines()
    if not 0 < len(lines) <= IGNORE_INDEX:
        raise InputError(f"{path}: names {len(lines)} classes: give 1 to {IGNORE_INDEX}, one a line")
    first: dict[str | Colour, int] = {}
    names: list[str] = []
    colours: list[Colour] = []
    for number, line in enumerate(lines, start=1):
        name, colour = _read_line(line, f"{path}:{number}")
        values: list[str | Colour] = [name, colour] if colour else [name]
        for value in values:
            if first.setdefault(value, number) != number:
                raise InputError(f"{path}:{number}: {value!r} stands on line {first[value]} too: change one")
        names.append(name)
        colours += [colour] if colour else []
    if colours and len(colours) < len(names):
        raise InputError(f"{path}: gives {len(colours)} of {len(names)} classes a colour: give it to all or to none")
    return tuple(names), tuple(colours) or bit_colours(range(1, len(names) + 1))


def _read_line(line: str, place: str) -> tuple[str, Colour | None]:
    match = _LINE.fullmatch(line.strip())
    if match is None:
        raise InputError(f"{place}: is empty: each line names the class of its id, counted from 0")
    if match["red"] is None:
        return match["name"], None
    colour = (int(match["red"]), int(match["green"]), int(match["blue"]))
    if max(colour) > 255:
        raise InputError(f"{place}: {colour} is no colour: give red, green and blue from 0 to 255")
    return match["name"], colour


def open_source(request: Request) -> Source:
    """The splits that images/ has folders of. InputError when the folder is not laid out as above."""
    folder = source_folder(request, NAME, f"images/, annotations/ and {CLASSES_FILE}")
    classes, palette = read_classes(folder / CLASSES_FILE)
    images, annotations = folder / "images", folder / "annotations"
    found = sorted(path.name for path in images.iterdir() if path.is_dir()) if images.is_dir() else []
    if not found:
        raise InputError(
            f"{images}: holds no folders: put each split's images into one, as images/train and images/val"
        )
    train_ids = TrainIds(
        of=consecutive(len(classes)),
        allowed=f"ids are 0 to {len(classes) - 1}, as in {CLASSES_FILE}, and {IGNORE_INDEX} for what is ignored",
    )
    pairs = {
        split: pair_files(images / split, annotations / split, image_ends=(".jpg", ".jpeg", ".png"))
        for split in chosen_splits(request, found)
    }
    return read_source(folder, pairs, train_ids.read, lists=[folder / CLASSES_FILE], classes=classes, palette=palette)


LAYOUT = Layout(name=NAME, version="1", classes=(), palette=(), open=open_source)
