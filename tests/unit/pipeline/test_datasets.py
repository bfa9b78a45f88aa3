"""The layouts: CamVid's folder, and the generated ContextScenes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.datasets import LAYOUTS, Request, camvid, context_scenes, find_layout
from pipeline.datasets.labelled_files import pair_files
from pipeline.errors import InputError
from pipeline.transforms import decode_image
from tests.unit.pipeline.made_up_data import png

REPOSITORY = Path(__file__).parents[3]
REAL_CAMVID = Path(os.environ.get("ENCNET_TEST_CAMVID") or REPOSITORY.parent / "shared/data/camvid")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny CamVid: two frames for training, one for validation."""
    rng = np.random.default_rng(0)
    for split, names in (("train", ("a", "b")), ("val", ("c",))):
        for kind, channels in (("images", (3,)), ("annotations", ())):
            (tmp_path / kind / split).mkdir(parents=True)
            for name in names:
                pixels = rng.integers(0, 12, (40, 50, *channels), dtype=np.uint8)
                (tmp_path / kind / split / f"{name}.png").write_bytes(png(pixels))
    return tmp_path


def test_names_find_layouts() -> None:
    assert find_layout("camvid") is LAYOUTS["camvid"]
    with pytest.raises(InputError) as caught:
        find_layout("contextscenes")
    assert str(caught.value) == "layout: 'contextscenes' is not known: did you mean 'context-scenes'?"


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
def test_every_class_has_a_colour_of_its_own(layout: camvid.Layout) -> None:
    assert len(set(layout.classes)) == len(set(layout.palette)) == len(layout.classes) == len(layout.palette)


def test_camvid_pairs_images_with_annotations(folder: Path) -> None:
    source = camvid.LAYOUT.open(Request(source=folder))
    assert {name: len(split.samples) for name, split in source.splits.items()} == {"train": 2, "val": 1}
    first, second = source.splits["train"].samples
    assert (first.key, first.source, second.key) == ("a", "images/train/a.png", "b")
    assert first.image == (folder / "images/train/a.png").read_bytes()
    assert set(np.unique(first.label)) == {*range(11), 255}


def test_camvids_arguments_follow_its_files(folder: Path) -> None:
    before = camvid.LAYOUT.open(Request(source=folder)).arguments
    assert camvid.LAYOUT.open(Request(source=folder)).arguments == before
    (folder / "images/val/c.png").write_bytes(png(np.zeros((40, 50, 3), np.uint8)))
    assert camvid.LAYOUT.open(Request(source=folder)).arguments != before


def _read_all(folder: Path) -> None:
    for split in camvid.LAYOUT.open(Request(source=folder)).splits.values():
        list(split.samples)


def _remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _write(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            _remove("annotations/train/b.png"),
            "{}/images/train/b.png: has no annotation {}/annotations/train/b.png: add it or remove the image",
        ),
        (
            _remove("images/train/b.png"),
            "{}/annotations/train/b.png: has no image in {}/images/train: add it or remove the annotation",
        ),
        (
            _write("images/train/b.jpg", b""),
            "{}/images/train/b.png: b.jpg has the same name: keep one of them",
        ),
        (_remove("images/val/c.png"), "{}/images/val: holds no jpg or png files: check --source"),
        (
            _write("annotations/val/c.png", png(np.full((40, 50), 12, np.uint8))),
            "{}/annotations/val/c.png: holds the id 12: ids are 0 to 10, and 11 for void",
        ),
        (
            _write("annotations/val/c.png", b"no png"),
            "{}/annotations/val/c.png: the annotation can't be used, "
            "it is neither JPEG nor PNG (it begins with b'no png'): replace it",
        ),
        (
            _write("annotations/val/c.png", png(np.zeros((40, 50, 3), np.uint8))),
            "{}/annotations/val/c.png: the annotation can't be used, "
            "it is a png of RGB with 8 bits, not a png of class ids: write each pixel's id, as grey or with a palette, "
            "with at most 8 bits: replace it",
        ),
    ],
    ids=["no annotation", "no image", "two images", "empty", "id", "undecodable", "coloured"],
)  # fmt: skip
def test_what_is_wrong_with_a_camvid_folder_is_named(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(InputError) as caught:
        _read_all(folder)
    assert str(caught.value) == message.replace("{}", str(folder))


@pytest.mark.parametrize(
    ("layout", "request_", "message"),
    [
        (
            "camvid",
            Request(),
            "source: is missing: give --source, the folder that holds CamVid's images/ and annotations/",
        ),
        ("camvid", Request(source=Path("/none")), "/none/images/train: there is no such folder: check --source"),
        (
            "camvid",
            Request(source=Path("/none"), seed=3),
            "seed: 3 is nothing for layout 'camvid': it is read from --source whole",
        ),
        (
            "context-scenes",
            Request(source=Path("/none")),
            "source: /none is nothing for layout 'context-scenes': it is generated, leave --source out",
        ),
        ("context-scenes", Request(train_samples=0), "train-samples: 0 is out of range: give at least 1"),
    ],
)
def test_requests_a_layout_has_no_use_for_are_refused(layout: str, request_: Request, message: str) -> None:
    with pytest.raises(InputError) as caught:
        find_layout(layout).open(request_)
    assert str(caught.value) == message


@pytest.mark.skipif(not REAL_CAMVID.is_dir(), reason=f"CamVid is not at {REAL_CAMVID}; set ENCNET_TEST_CAMVID")
def test_the_real_camvid_is_whole() -> None:
    source = camvid.LAYOUT.open(Request(source=REAL_CAMVID))
    assert {name: len(split.samples) for name, split in source.splits.items()} == {"train": 367, "val": 101}
    seen: set[int] = set()
    for sample in source.splits["val"].samples:
        assert decode_image(sample.image, sample.extension).shape == (360, 480, 3)
        seen |= set(np.unique(sample.label).tolist())
    assert seen == {*range(11), 255}


@pytest.mark.skipif(not REAL_CAMVID.is_dir(), reason=f"CamVid is not at {REAL_CAMVID}; set ENCNET_TEST_CAMVID")
def test_the_originals_split_is_that_of_the_11_classes() -> None:
    for split in ("train", "val"):
        for pair in pair_files(REAL_CAMVID / "images" / split, REAL_CAMVID / "annotations" / split):
            assert camvid.split_of(pair) == split


SHARED_LOOKS = sorted(
    (look, one, other)
    for look in context_scenes.textures.SURFACES
    for one in context_scenes.SCENES
    for other in context_scenes.SCENES
    if one < other
    and look in context_scenes.SCENES[one].surfaces
    and look in context_scenes.SCENES[other].surfaces
)  # fmt: skip
LANDMARK_CLASSES = context_scenes.CLASSES[-len(context_scenes.SCENES) :]
LANDMARKS = [context_scenes.CLASSES.index(name) for name in LANDMARK_CLASSES]


def _render(scene: str, look: str, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return context_scenes.render(context_scenes.SCENES[scene], look, context_scenes.scene_rng(0, "train", number))


def test_every_look_is_shared_by_two_scenes() -> None:
    assert [look for look, _, _ in SHARED_LOOKS] == sorted(context_scenes.textures.SURFACES)
    assert {scene.landmark for scene in context_scenes.SCENES.values()} == set(LANDMARK_CLASSES)


@pytest.mark.parametrize(("look", "one", "other"), SHARED_LOOKS)
def test_scenes_that_share_a_look_differ_in_their_landmarks_alone(look: str, one: str, other: str) -> None:
    """So nothing but the landmarks can tell the classes of a shared look apart."""
    shares = []
    for number in range(5):
        image, label = _render(one, look, number)
        image_other, label_other = _render(other, look, number)
        # Landmarks, their ignored outline, and the softening of the picture around them.
        either = np.isin(label, [*LANDMARKS, 255]) | np.isin(label_other, [*LANDMARKS, 255])
        near = context_scenes.cv2.dilate(either.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
        assert np.array_equal(image[~near], image_other[~near])
        shares.append(near.mean())
        surfaces = [context_scenes.CLASSES.index(context_scenes.SCENES[scene].surfaces[look]) for scene in (one, other)]
        assert np.array_equal((label == surfaces[0])[~near], (label_other == surfaces[1])[~near])
    assert np.mean(shares) < 0.35


def _patches(number: int, scene: str, look: str) -> NDArray[np.float64]:
    """What a local window sees of a surface: (n, 6) mean and deviation of 9 x 9 pixels."""
    image, label = _render(scene, look, number)
    wanted = label == context_scenes.CLASSES.index(context_scenes.SCENES[scene].surfaces[look])
    blurred = context_scenes.cv2.blur(image.astype(np.float64), (9, 9))
    square = context_scenes.cv2.blur(image.astype(np.float64) ** 2, (9, 9))
    features = np.concatenate([blurred, np.sqrt(np.maximum(square - blurred**2, 0))], axis=-1)
    return np.asarray(features[wanted][::97])


@pytest.mark.parametrize(("look", "one", "other"), SHARED_LOOKS[::2])
def test_a_local_classifier_is_no_better_than_chance(look: str, one: str, other: str) -> None:
    """The nearest neighbour by local colour and texture, of other pictures, is of either class equally often."""
    known = [(_patches(number, scene, look), kind) for number in range(24) for kind, scene in enumerate((one, other))
             if number % 2 == kind]  # fmt: skip
    features = np.concatenate([patch for patch, _ in known])
    kinds = np.concatenate([np.full(len(patch), kind) for patch, kind in known])
    spread = features.std(axis=0)
    hits = []
    for number in range(24, 48):
        asked = _patches(number, (one, other)[number % 2], look) / spread
        distance = ((asked[:, None] - features[None] / spread) ** 2).sum(axis=-1)
        hits.append(np.mean(kinds[distance.argmin(axis=1)] == number % 2))
    assert abs(np.mean(hits) - 0.5) < 0.2


def test_landmarks_lie_far_from_the_surface_they_explain() -> None:
    distances = []
    for sample in context_scenes.samples("train", 60, seed=0):
        rows, columns = np.nonzero(np.isin(sample.label, LANDMARKS))
        surface = np.isin(sample.label, range(2, 13))
        ys, xs = (axis[::50] for axis in np.nonzero(surface))
        apart = np.hypot(ys[:, None] - rows[None, ::5], xs[:, None] - columns[None, ::5]).min(axis=1)
        distances.append(apart / min(sample.label.shape))
    assert np.median(np.concatenate(distances)) > 0.5  # of the picture's shorter side


def test_pictures_belong_to_seed_split_and_number() -> None:
    one = list(context_scenes.samples("train", 8, seed=0))
    again = list(context_scenes.samples("train", 3, seed=0))
    assert [sample.image for sample in again] == [sample.image for sample in one[:3]]
    assert all(np.array_equal(a.label, b.label) for a, b in zip(again, one[:3], strict=True))
    others = [context_scenes.samples("val", 1, seed=0)[0], context_scenes.samples("train", 1, seed=1)[0]]
    assert len({sample.image for sample in [one[0], *others]}) == 3
    assert len({sample.label.shape for sample in one}) > 4


def test_classes_are_neither_rare_nor_missing() -> None:
    counts = np.zeros(256, np.int64)
    for sample in context_scenes.samples("train", 120, seed=0):
        assert decode_image(sample.image, "jpg").shape[:2] == sample.label.shape
        counts += np.bincount(sample.label.ravel(), minlength=256)
    shares = counts[: len(context_scenes.CLASSES)] / counts.sum()
    ambiguous = shares[2:13].sum()
    assert shares.min() > 0.002
    assert shares.max() < 0.35
    assert 0.35 < ambiguous < 0.5
    assert 0 < counts[255] / counts.sum() < 0.05
    assert counts[len(context_scenes.CLASSES) : 255].sum() == 0
