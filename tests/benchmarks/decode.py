"""From a sample's bytes to an augmented crop on one thread, against Pillow and against resizing the whole image.

python -m tests.benchmarks.decode [--small]

On CamVid's frames, resized to the size of a photo, where they are ($ENCNET_TEST_CAMVID, else ../shared/data/camvid);
else on generated ones.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image
from rich.table import Table

from pipeline.augment import View, augment_rng, choose_view, show
from pipeline.shards import IGNORE_INDEX
from pipeline.transforms import PADDING_RGB, TransformConfig, decode_image, decode_label
from pipeline.transforms import Image as Pixels
from pipeline.transforms import Label as Ids
from tests.benchmarks import measure

CAMVID = Path(os.environ.get("ENCNET_TEST_CAMVID") or Path(__file__).parents[3] / "shared/data/camvid")
PHOTO = (512, 683)
"""Height and width of a photo as ADE20K and PASCAL have them."""
CROP = (480, 480)
QUALITY = 90


class Coded(NamedTuple):
    """A sample's bytes, and what to show of it."""

    jpeg: bytes
    filtered: bytes
    """The label's PNG as most programs write it."""
    unfiltered: bytes
    """The same without row filters, as shards hold it."""
    view: View


Form = Callable[[Coded], object]
"""One way to do the same."""


def coded_samples(count: int, photo: tuple[int, int], crop: tuple[int, int]) -> list[Coded]:
    """Samples of one size, each with a random scale, crop and mirroring."""
    config = TransformConfig(crop_size=crop)
    samples = []
    for number, (image, label) in enumerate(pictures(count, photo)):
        view = choose_view(label, config, augment_rng(0, 0, number))
        jpeg = simplejpeg.encode_jpeg(image, QUALITY, "RGB", "420")
        samples.append(Coded(jpeg, png(label, cv2.IMWRITE_PNG_ALL_FILTERS), png(label), view))
    return samples


def pictures(count: int, photo: tuple[int, int]) -> Iterator[tuple[Pixels, Ids]]:
    """Images and labels of `photo` (height, width): CamVid's frames resized, generated ones where these end."""
    paths = sorted((CAMVID / "images/train").glob("*.jpg"))
    paths = paths[:: min(7, max(1, len(paths) // count))][:count]
    for path in paths:
        pixels = cv2.resize(decode_image(path.read_bytes(), "jpg"), photo[::-1], interpolation=cv2.INTER_CUBIC)
        ids = decode_label((CAMVID / "annotations/train" / f"{path.stem}.png").read_bytes())
        label = cv2.resize(ids, photo[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        yield np.asarray(pixels, np.uint8), np.asarray(label, np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(count - len(paths)):
        noise = cv2.resize(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8), photo[::-1])
        label = cv2.resize(rng.integers(0, 11, (12, 16), dtype=np.uint8), photo[::-1], interpolation=cv2.INTER_NEAREST)
        grain = rng.normal(0, 6, noise.shape)
        yield np.clip(noise + grain, 0, 255).astype(np.uint8), np.asarray(label, np.uint8)


def png(label: Ids, filters: int = cv2.IMWRITE_PNG_FILTER_NONE) -> bytes:
    """A label as a PNG; without row filters, as shards hold it."""
    options = [cv2.IMWRITE_PNG_COMPRESSION, 6, cv2.IMWRITE_PNG_FILTER, filters]
    return cv2.imencode(".png", label, options)[1].tobytes()


def pillow_whole(sample: Coded, crop: tuple[int, int]) -> tuple[Pixels, Ids]:
    """Decode, resize the whole, pad, crop and mirror, as PyTorch-Encoding does."""
    view, results = sample.view, []
    for data, filling, method in (
        (sample.jpeg, PADDING_RGB, Image.Resampling.BILINEAR),
        (sample.filtered, IGNORE_INDEX, Image.Resampling.NEAREST),
    ):
        picture: Image.Image = Image.open(io.BytesIO(data))
        picture = picture.resize((round(picture.width * view.scale), round(picture.height * view.scale)), method)
        left, top = round(view.left * view.scale), round(view.top * view.scale)
        canvas = Image.new(picture.mode, crop[::-1], filling)
        canvas.paste(picture.crop((left, top, min(left + crop[1], picture.width), min(top + crop[0], picture.height))))
        results.append(np.asarray(canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.flip else canvas))
    return results[0], results[1]


def opencv_whole(sample: Coded, crop: tuple[int, int]) -> tuple[Pixels, Ids]:
    """The same with OpenCV."""
    view, results = sample.view, []
    for data, flags, filling, method in (
        (sample.jpeg, cv2.IMREAD_COLOR_RGB, PADDING_RGB, cv2.INTER_LINEAR),
        (sample.filtered, cv2.IMREAD_UNCHANGED, (IGNORE_INDEX,), cv2.INTER_NEAREST_EXACT),
    ):
        pixels = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), flags))
        size = round(pixels.shape[1] * view.scale), round(pixels.shape[0] * view.scale)
        left, top = round(view.left * view.scale), round(view.top * view.scale)
        pixels = cv2.resize(pixels, size, interpolation=method)[top : top + crop[0], left : left + crop[1]]
        below, beside = crop[0] - pixels.shape[0], crop[1] - pixels.shape[1]
        pixels = cv2.copyMakeBorder(pixels, 0, below, 0, beside, cv2.BORDER_CONSTANT, value=filling)
        results.append(np.asarray(cv2.flip(pixels, 1) if view.flip else pixels, np.uint8))
    return results[0], results[1]


def region_only(sample: Coded, crop: tuple[int, int], filters: bool = False) -> tuple[Pixels, Ids]:
    """What the loader does: cut the part out, then resize it; from either form of the label."""
    label = decode_label(sample.filtered if filters else sample.unfiltered)
    return show(decode_image(sample.jpeg, "jpg"), label, sample.view, crop)


def _all(form: Form, samples: Sequence[Coded]) -> None:
    for sample in samples:
        form(sample)


def _compare(title: str, forms: Mapping[str, Form], samples: Sequence[Coded], rounds: int) -> Table:
    calls: dict[str, measure.Call] = {name: partial(_all, form, samples) for name, form in forms.items()}
    seconds = measure.interleaved_medians(calls, rounds)
    return measure.compare(title, {name: value / len(samples) for name, value in seconds.items()})


def tables(small: bool) -> list[Table]:
    """Whole samples, and their parts."""
    threads = cv2.getNumThreads()
    photo, crop, count, rounds = ((64, 86), (60, 60), 2, 1) if small else (PHOTO, CROP, 16, 9)
    samples = coded_samples(count, photo, crop)
    source = "CamVid" if CAMVID.is_dir() else "generated"
    whole: dict[str, Form] = {
        "Pillow, whole image": partial(pillow_whole, crop=crop),
        "OpenCV, whole image": partial(opencv_whole, crop=crop),
        "region only, filtered label": partial(region_only, crop=crop, filters=True),
        "region only (as the loader)": partial(region_only, crop=crop),
    }
    jpegs: dict[str, Form] = {
        "Pillow": lambda sample: np.asarray(Image.open(io.BytesIO(sample.jpeg))),
        "OpenCV": lambda sample: cv2.imdecode(np.frombuffer(sample.jpeg, np.uint8), cv2.IMREAD_COLOR_RGB),
        "simplejpeg": lambda sample: decode_image(sample.jpeg, "jpg"),
    }
    labels: dict[str, Form] = {
        "Pillow, filtered": lambda sample: np.asarray(Image.open(io.BytesIO(sample.filtered))),
        "OpenCV, filtered": lambda sample: decode_label(sample.filtered),
        "OpenCV, no filters": lambda sample: decode_label(sample.unfiltered),
    }
    size = f"{photo[1]} x {photo[0]}"
    try:
        cv2.setNumThreads(1)
        return [
            _compare(f"{source}, {size} to {crop[1]} x {crop[0]}, one thread, a sample", whole, samples, rounds),
            _compare(f"Its JPEG ({size}, quality {QUALITY}), decoded", jpegs, samples, rounds),
            _compare("Its label's PNG, decoded", labels, samples, rounds),
        ]
    finally:
        cv2.setNumThreads(threads)


if __name__ == "__main__":
    measure.main(__doc__, tables)
