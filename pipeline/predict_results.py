"""What is written of an image: its class map, an overlay, and a record that is written last."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image as Pillow

from pipeline.contact_sheet import overlay
from pipeline.predict_plan import class_map_key, overlay_key, record_key
from pipeline.report import Palette
from pipeline.resumed_read import ObjectNotFound
from pipeline.storage import Store
from pipeline.transforms import Image, Label

NUM_READERS = 16
JPEG_QUALITY = 90
MAX_JPEG_SIDE = 65_500
"""Pixels; of larger images there is no overlay."""
_BAND = 512
"""Rows that are mixed at a time: mixing takes 70 bytes a pixel."""


class Classes(NamedTuple):
    """What the ids of a model stand for."""

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    """RGB of each."""


def encode_class_map(ids: Label, palette: Palette) -> bytes:
    """(H, W) ids -> a PNG with a palette, of 8 bits: its pixels are the ids, any viewer shows the colours."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8)
    image = Pillow.fromarray(np.ascontiguousarray(ids))
    image.putpalette(table.tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def encode_overlay(image: Image, ids: Label, palette: Palette) -> bytes | None:
    """The image under the classes' colours, (H, W, 3) and (H, W) -> a JPEG; None where it is too large for one."""
    if max(ids.shape) > MAX_JPEG_SIDE:
        return None
    bands = [slice(first, first + _BAND) for first in range(0, len(ids), _BAND)]
    mixed = np.vstack([overlay(image[rows], ids[rows], palette) for rows in bands])
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(mixed), JPEG_QUALITY, "RGB"))


def measure(ids: Label, confidence: NDArray[np.float32], names: Sequence[str]) -> dict[str, Any]:
    """What a record says of a class map: the share of each class that is there, and how sure the model is.

    Args:
        ids: (H, W).
        confidence: (H, W) probability of the class in `ids`.
        names: of the classes.

    Returns:
        width, height, shares (name -> share of the pixels, summing to 1), confidence (mean over all pixels) and
        class_confidence (name -> mean over the class's pixels), rounded to 6 digits.
    """
    flat = ids.ravel()
    pixels = np.bincount(flat, minlength=len(names))
    sums = np.bincount(flat, confidence.ravel(), minlength=len(names))
    there = np.flatnonzero(pixels).tolist()
    return {
        "width": ids.shape[1],
        "height": ids.shape[0],
        "shares": {names[place]: round(float(pixels[place] / flat.size), 6) for place in there},
        "confidence": round(float(sums.sum() / flat.size), 6),
        "class_confidence": {names[place]: round(float(sums[place] / pixels[place]), 6) for place in there},
    }


def write_results(
    store: Store,
    name: str,
    image: Image,
    ids: Label,
    confidence: NDArray[np.float32],
    classes: Classes,
    facts: Mapping[str, Any],
    *,
    with_overlay: bool,
) -> None:
    """Write what there is of an image, each file whole, and last the record, with `facts` beside what was measured."""
    store.write(class_map_key(name), encode_class_map(ids, classes.palette))
    mixed = encode_overlay(image, ids, classes.palette) if with_overlay else None
    if mixed is not None:
        store.write(overlay_key(name), mixed)
    files = {"class_map": _file(class_map_key(name)), "overlay": _file(overlay_key(name)) if mixed else None}
    record = {**facts, **measure(ids, confidence, classes.names), **files}
    store.write(record_key(name), (json.dumps(record, indent=1) + "\n").encode())


def _file(key: str) -> str:
    """As seen from the record beside it."""
    return key.rpartition("/")[2]


def read_fingerprints(store: Store, names: Sequence[str]) -> dict[str, str]:
    """name -> fingerprint, of the records of `names`; '' for one that is none of ours."""

    def read(name: str) -> str:
        try:
            data = store.read(record_key(name))
        except ObjectNotFound:
            return ""
        with suppress(ValueError, KeyError, TypeError):
            return str(json.loads(data)["fingerprint"])
        return ""

    with ThreadPoolExecutor(NUM_READERS, "encnet-predict-records") as pool:
        return dict(zip(names, pool.map(read, names), strict=True))
