"""Images predicted from folder to folder: what is written, what is skipped, and what is wrong with an image."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow

import encnet
from pipeline import predict, predict_model
from pipeline.contact_sheet import overlay
from pipeline.errors import InputError
from pipeline.predict import Outcome, Predictor, predict_here
from pipeline.predict_inputs import find_inputs, load_image
from pipeline.predict_model import NoMemory, Options, Weights
from pipeline.predict_plan import Job, left_to_do, recorded_names
from pipeline.predict_results import Classes, encode_class_map, encode_overlay, measure, read_fingerprints
from pipeline.sample_reader import decode_ids
from pipeline.storage import LocalStore, Store
from pipeline.transforms import decode_image
from tests.unit.pipeline.made_up_data import CLASSES, PALETTE, colours, patches, png
from tests.unit.pipeline.small_model import store_model

SIZES = {"b": (40, 56), "c": (33, 47), "sub/frame2": (40, 56), "sub/frame10": (40, 56), "sub/deep/e": (1, 3)}
"""Name of each image that can be predicted, but for the grey ones, -> height and width."""
GREY = {"grey": (50, 31), "grey16": (37, 37)}


def picture(seed: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    return colours(patches(size, np.random.default_rng(seed)))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """PNG, JPEG, grey ones, odd sizes, folders, a broken image and a text file."""
    folder = tmp_path / "photos"
    (folder / "sub/deep").mkdir(parents=True)
    for seed, (name, size) in enumerate(SIZES.items()):
        image = picture(seed, size)
        jpeg = name in ("b", "sub/frame2", "sub/frame10")
        data = simplejpeg.encode_jpeg(image, 95, "RGB") if jpeg else png(image)
        (folder / f"{name}.{'jpg' if jpeg else 'PNG'}").write_bytes(data)
    grey = picture(7, GREY["grey"])[..., :1]
    (folder / "grey.jpeg").write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(grey), 95, "GRAY", "Gray"))
    deep = picture(8, GREY["grey16"])[..., 0].astype(np.uint16) * 257
    (folder / "grey16.png").write_bytes(cv2.imencode(".png", deep)[1].tobytes())
    (folder / "broken.jpg").write_bytes((folder / "b.jpg").read_bytes()[:300])
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> encnet.SegmentationNet:
    predict.load_network.cache_clear()
    return store_model(tmp_path / "model", monkeypatch)


@pytest.fixture
def predictor(tmp_path: Path, network: encnet.SegmentationNet) -> Predictor:
    return Predictor(
        model_uri="model",
        weights=Weights.read(tmp_path / "model" / "weights.safetensors"),
        classes=Classes(CLASSES, PALETTE),
        options=Options(),
        batch_size=2,
        output=LocalStore(root=tmp_path / "out"),
    )


def jobs_of(predictor: Predictor, photos: Path, force: bool = False) -> list[Job]:
    found, output = find_inputs([str(photos)], predictor.output), predictor.output
    there = set(output.list())
    records = read_fingerprints(output, recorded_names(found.images, there))
    return left_to_do(found.images, records, predictor.identity, there, force)


def run(predictor: Predictor, photos: Path, done: Callable[[int], object] = lambda _: None) -> list[Outcome]:
    return predict_here(predictor, jobs_of(predictor, photos), done)


def files_of(store: Store) -> dict[str, tuple[bytes, str]]:
    """Key -> contents and version, which has the time."""
    return {key: (store.read(key), store.versions()[key]) for key in store.list()}


def record(predictor: Predictor, name: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(predictor.output.read(f"{name}.json"))
    return told


def test_each_image_has_its_three_files(predictor: Predictor, photos: Path) -> None:
    counts: list[int] = []
    outcomes = run(predictor, photos, counts.append)
    sizes = SIZES | GREY
    kinds = (".png", ".overlay.jpg", ".json")
    assert predictor.output.list() == sorted(name + kind for name in sizes for kind in kinds)
    assert counts == [1] * (len(sizes) + 1)
    (bad,) = (outcome for outcome in outcomes if outcome.fault)
    assert bad.uri == f"{photos}/broken.jpg"
    assert bad.fault == "is a JPEG with a damaged or unusual header (300 bytes)"
    found = find_inputs([str(photos)], predictor.output)
    assert [outcome.uri for outcome in outcomes] == [one.uri for one in found.images]
    assert [one.key for one in found.images][-3:] == ["sub/deep/e.PNG", "sub/frame2.jpg", "sub/frame10.jpg"]
    assert found.passed_over == {".txt": 1}
    for name, (height, width) in sizes.items():
        assert decode_ids(predictor.output.read(f"{name}.png")).shape == (height, width)
        assert decode_image(predictor.output.read(f"{name}.overlay.jpg"), "jpg").shape == (height, width, 3)
        assert (record(predictor, name)["height"], record(predictor, name)["width"]) == (height, width)


@pytest.mark.parametrize("options", [Options(), Options(scales=(0.75, 1.0), flip=True, crop_size=32, stride=20)])
def test_class_maps_are_those_of_the_network(
    predictor: Predictor, photos: Path, network: encnet.SegmentationNet, options: Options
) -> None:
    predictor = replace(predictor, options=options)
    run(predictor, photos)
    seen = set[int]()
    for path in (path for path in sorted(photos.rglob("*.*")) if path.stem not in ("broken", "notes")):
        name = path.relative_to(photos).with_suffix("").as_posix()
        image = decode_image(path.read_bytes(), "png" if path.suffix.lower() == ".png" else "jpg")
        crop, stride = options.crop_size or None, options.stride or None
        # As the predictor asks for it: in the memory format that is the faster one on CPUs.
        tensor = encnet.normalize(torch.from_numpy(image)[None], torch.contiguous_format)
        probabilities = encnet.predict(network, tensor, options.scales, options.flip, crop, stride)[0].numpy()
        ids = decode_ids(predictor.output.read(f"{name}.png"))
        first, second = np.sort(probabilities, axis=0)[[-1, -2]]
        assert ((ids == probabilities.argmax(0)) | (first - second < 1e-5)).all()
        told = record(predictor, name)
        assert told["confidence"] == pytest.approx(first.mean(), abs=2e-6)
        assert told["shares"] == pytest.approx(
            {CLASSES[place]: (ids == place).mean() for place in np.unique(ids)}, abs=1e-6
        )
        assert told["class_confidence"] == pytest.approx(
            {CLASSES[place]: first[ids == place].mean() for place in np.unique(ids)}, abs=2e-5
        )
        seen |= set(np.unique(ids).tolist())
        mixed = np.ascontiguousarray(overlay(image, ids, PALETTE))
        assert predictor.output.read(f"{name}.overlay.jpg") == simplejpeg.encode_jpeg(mixed, 90, "RGB")
    assert len(seen) > 1, "a network that sees one class only shows nothing"


def test_a_class_map_is_a_palette_png_of_ids() -> None:
    ids = patches((20, 30), np.random.default_rng(0))
    data = encode_class_map(ids, PALETTE)
    assert np.array_equal(decode_ids(data), ids)
    assert np.array_equal(decode_image(data, "png"), colours(ids))
    with Pillow.open(io.BytesIO(data)) as image:
        assert image.mode == "P"
    assert data[24] == 8, "bits a pixel, in IHDR"


def test_an_overlay_that_no_jpeg_can_hold_is_left_out() -> None:
    ids = np.zeros((1, 65_501), np.uint8)
    assert encode_overlay(np.zeros((1, 65_501, 3), np.uint8), ids, PALETTE) is None
    tall = picture(0, (1100, 8))
    mixed = encode_overlay(tall, np.ones((1100, 8), np.uint8), PALETTE)
    assert mixed is not None
    assert decode_image(mixed, "jpg").shape == tall.shape


def test_figures_are_of_the_classes_that_are_there() -> None:
    ids = np.array([[0, 0, 2], [2, 2, 2]], np.uint8)
    confidence = np.array([[0.5, 0.7, 1.0], [0.9, 0.9, 0.8]], np.float32)
    assert measure(ids, confidence, ("a", "b", "c")) == {
        "width": 3,
        "height": 2,
        "shares": {"a": 0.333333, "c": 0.666667},
        "confidence": 0.8,
        "class_confidence": {"a": 0.6, "c": 0.9},
    }


def test_a_record_says_what_it_is_of(predictor: Predictor, photos: Path) -> None:
    run(predictor, photos)
    told = record(predictor, "sub/frame2")
    assert told["input"] == f"{photos}/sub/frame2.jpg"
    assert (told["model"], told["class_map"], told["overlay"]) == ("model", "frame2.png", "frame2.overlay.jpg")
    assert (told["scales"], told["flip"], told["crop_size"], told["stride"]) == ([1.0], False, 0, 0)
    assert set(told) == {
        "input", "model", "fingerprint", "scales", "flip", "crop_size", "stride", "width", "height", "shares",
        "confidence", "class_confidence", "class_map", "overlay",
    }  # fmt: skip


def test_what_is_interrupted_is_gone_on_with(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    predictor = replace(predictor, batch_size=1)
    undisturbed = replace(predictor, output=LocalStore(root=tmp_path / "undisturbed"))
    run(undisturbed, photos)
    left = [3]

    def stop(count: int) -> None:
        left[0] -= count
        if not left[0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(predictor, photos, stop)
    assert not [key for key in predictor.output.list() if ".partial" in key]
    before = files_of(predictor.output)
    finished = {key.removesuffix(".json") for key in before if key.endswith(".json")}
    assert 2 <= len(finished) < len(SIZES | GREY)
    outcomes = run(predictor, photos)
    assert len(outcomes) == len(SIZES | GREY) + 1 - len(finished)
    after, expected = files_of(predictor.output), files_of(undisturbed.output)
    assert {key: data for key, (data, _) in after.items()} == {key: data for key, (data, _) in expected.items()}
    for key in (name + kind for name in finished for kind in (".png", ".overlay.jpg", ".json")):
        assert after[key] == before[key]
    assert [job.image.key for job in jobs_of(predictor, photos)] == ["broken.jpg"]
    assert len(jobs_of(predictor, photos, force=True)) == len(SIZES | GREY) + 1


def test_the_record_is_written_last(predictor: Predictor, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(LocalStore, "write", lambda self, key, data: written.append(key))
    run(predictor, photos)
    for name in SIZES:
        assert [key for key in written if key.startswith(f"{name}.")] == [
            f"{name}.png",
            f"{name}.overlay.jpg",
            f"{name}.json",
        ]


def test_what_results_depend_on_makes_them_be_done_again(predictor: Predictor, photos: Path) -> None:
    run(predictor, photos)
    (photos / "sub/frame2.jpg").write_bytes((photos / "b.jpg").read_bytes())
    assert {job.image.name for job in jobs_of(predictor, photos)} == {"sub/frame2", "broken"}
    everything = {job.image.name for job in jobs_of(predictor, photos, force=True)}
    for other in (
        replace(predictor, options=Options(flip=True)),
        replace(predictor, options=Options(overlay=False)),
        replace(predictor, classes=Classes(("x", *CLASSES[1:]), PALETTE)),
        replace(predictor, weights=replace(predictor.weights, digest="0")),
    ):
        assert {job.image.name for job in jobs_of(other, photos)} == everything
    assert len(jobs_of(replace(predictor, batch_size=7, model_uri="again"), photos)) == 2
    predictor.output.write("b.json", b"{no json")
    assert "b" in {job.image.name for job in jobs_of(predictor, photos)}


def test_nothing_is_left_of_other_options_or_of_an_image_that_broke(predictor: Predictor, photos: Path) -> None:
    run(predictor, photos)
    (photos / "c.PNG").write_bytes(b"")
    plain = replace(predictor, options=Options(overlay=False))
    (empty,) = (outcome for outcome in run(plain, photos) if outcome.uri.endswith("c.PNG"))
    assert empty.fault == "is empty (0 bytes)"
    keys = predictor.output.list()
    assert not [key for key in keys if key.startswith("c.") or key.endswith(".overlay.jpg")]
    assert record(predictor, "b")["overlay"] is None


def test_images_for_which_memory_lacks_are_taken_alone_or_named(
    predictor: Predictor, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classify, alone = predict.classify, []

    def scarce(network: Any, images: Any, options: Options) -> Any:
        if len(images) > 1 or images[0].shape[0] > 40:
            raise NoMemory("can't allocate memory")
        alone.append(images[0].shape)
        return classify(network, images, options)

    monkeypatch.setattr(predict, "classify", scarce)
    faults = {Path(outcome.uri).stem: outcome.fault for outcome in run(predictor, photos) if outcome.fault}
    assert set(faults) == {"broken", "grey"}
    assert faults["grey"] == "there is no memory for it: give --crop-size"
    assert len(alone) == len(SIZES) + 1


def test_torch_s_own_words_are_taken_for_a_lack_of_memory(
    predictor: Predictor, network: encnet.SegmentationNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        torch.empty(1 << 60)

    monkeypatch.setattr(encnet, "predict_with_confidence", fail)
    with pytest.raises(NoMemory):
        predict_model.classify(network, [picture(0, (40, 40))], Options())


def test_an_orientation_tag_is_left_alone(photos: Path, tmp_path: Path, predictor: Predictor) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    Pillow.fromarray(picture(0, (40, 56))).save(tmp_path / "turned.jpg", exif=exif)
    (one,) = find_inputs([str(tmp_path / "turned.jpg")], predictor.output).images
    found = load_image(one)
    assert found.image is not None
    assert found.image.shape == (40, 56, 3)


def test_a_predictor_can_be_sent_to_a_worker(predictor: Predictor, photos: Path) -> None:
    sent: Predictor = pickle.loads(pickle.dumps(predictor))  # noqa: S301
    assert sent.identity == predictor.identity
    threads = torch.get_num_threads()
    try:
        outcomes = sent(jobs_of(predictor, photos))
    finally:
        torch.set_num_threads(threads)
    assert [outcome.uri for outcome in outcomes if outcome.fault] == [f"{photos}/broken.jpg"]
    assert predict.load_network(sent.weights) is predict.load_network(predictor.weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, r"scales: \(\): must be numbers greater than 0"),
        ({"scales": (1.0, -1.0)}, r"scales: \(1.0, -1.0\): must be numbers greater than 0"),
        ({"crop_size": 16}, "crop_size: 16 is too small: give at least 32, or 0"),
        ({"stride": 16}, "stride: 16 without a window: give crop_size too"),
        ({"crop_size": 32, "stride": 33}, "stride: 33: give 1 to crop_size, 32"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        Options(**options)


def test_more_classes_than_a_class_map_holds_are_refused(predictor: Predictor) -> None:
    many = Classes(tuple(map(str, range(256))), ((0, 0, 0),) * 256)
    with pytest.raises(InputError, match="MODEL: has 256 classes: class maps hold at most 255"):
        replace(predictor, classes=many)
