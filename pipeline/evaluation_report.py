"""The report of an evaluation: one HTML file that needs nothing from outside, in which all that comes from data is
escaped. Also its summary for the MLflow run, and its table."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray

from pipeline.bootstrap import Difference
from pipeline.calibration import Calibration
from pipeline.evaluation_plan import Protocol
from pipeline.evaluation_record import Facts, Record
from pipeline.evaluation_tally import Tally

MOST_LABELLED = 40
"""Classes of which a confusion matrix still has room for the names."""
MOST_NUMBERED = 20
"""And for a number in each cell."""
NUM_PAIRS = 15
PLOT = 300
"""Side of the reliability picture."""
_TEMPLATE = Path(__file__).with_name("evaluation_report.html")
_MATRIX = 640
"""Side of the confusion matrix, about."""
_LEAST_CELL, _MOST_CELL = 4, 40
_LETTER = 6.6
"""Mean width of a letter beside the matrix."""
_LONGEST = 24
_DARKEST = np.array((8, 48, 107))
_ABSENT = np.array((225, 225, 225))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How much better the model is than another one."""

    other: Record
    difference: Difference

    @property
    def text(self) -> str:
        """The difference in one sentence."""
        return f"{describe_difference(self.difference)} over {self.other.facts.model_uri}"


class Pair(NamedTuple):
    """Pixels of one class that were taken for another one."""

    truth: int
    predicted: int
    share: float
    """Of the pixels of the first one."""
    num_pixels: int


def describe_difference(difference: Difference) -> str:
    """'+1.23 points of mIoU (95 %: +0.20 to +2.31)'."""
    value, low, high = (f"{100 * share:+.2f}" for share in (difference.value, difference.low, difference.high))
    return f"{value} points of mIoU ({100 * difference.level:g} %: {low} to {high})"


def describe_protocol(protocol: Protocol) -> str:
    """How images were predicted, in words."""
    window = f"a window of {protocol.crop_size} x {protocol.crop_size}" if protocol.crop_size else "whole images"
    scales = ", ".join(f"{scale:g}" for scale in protocol.scales)
    many = f"mean over the scales {scales}" if len(protocol.scales) > 1 else f"scale {scales}"
    return "; ".join([window, many, *["mirrored too"] * protocol.flip])


def summarize(facts: Facts, tally: Tally) -> str:
    """What came out, as the Markdown of a run's description."""
    confusion = tally.confusion
    return (
        f"**mIoU {percent(confusion.mean_iou)} %**, pixAcc {percent(confusion.pix_acc)} %, boundary F-score "
        f"{percent(tally.boundary.mean_f_score)} %, ECE {percent(tally.calibration.ece)} % of `{facts.model_uri}` on "
        f"{len(tally.sample_ids)} images ({describe_protocol(facts.protocol)}).\n\n"
        "The whole of it: Artifacts, `report/index.html`."
    )


def class_columns(facts: Facts, tally: Tally) -> dict[str, list[Any]]:
    """The table of the classes: name -> a value for each class."""
    return {
        "class": list(facts.classes),
        "iou": tally.confusion.iou.tolist(),
        "boundary_f": tally.boundary.f_score.tolist(),
        "pixel_share": _pixel_shares(tally.matrix).tolist(),
    }


def render(facts: Facts, tally: Tally, pictures: Sequence[bytes], comparison: Comparison | None = None) -> str:
    """The report as HTML. `pictures`: JPEGs of `facts.worst`."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = percent
    worst = zip(facts.worst, [_data_uri(picture, "jpeg") for picture in pictures], strict=True)
    return environment.from_string(_TEMPLATE.read_text()).render(
        facts=facts,
        origin=_origin(facts, tally),
        scores=_scores(facts, tally),
        comparison=comparison,
        classes=_class_rows(facts, tally, comparison),
        matrix=_draw_matrix(tally.matrix, facts.classes),
        pairs=confused_pairs(tally.matrix, NUM_PAIRS),
        reliability=_draw_reliability(tally.calibration),
        plot=PLOT,
        worst=list(worst),
    )


def percent(share: float, digits: int = 2) -> str:
    """A share of 1 in percent; a dash for NaN."""
    return "–" if math.isnan(share) else f"{100 * share:.{digits}f}"


def confused_pairs(matrix: NDArray[np.int64], most: int) -> list[Pair]:
    """The pairs of classes with the most pixels of the first taken for the second; fewer where there are fewer."""
    wrong = matrix * ~np.eye(len(matrix), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[: min(most, np.count_nonzero(wrong))]
    totals = matrix.sum(1)
    return [
        Pair(truth, predicted, float(wrong[truth, predicted] / totals[truth]), int(wrong[truth, predicted]))
        for truth, predicted in zip(*(axis.tolist() for axis in np.unravel_index(order, wrong.shape)), strict=True)
    ]


def row_shares(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """(C, C): the share of each class's pixels that was taken for each; NaN in the row of one without pixels."""
    totals = matrix.sum(1, keepdims=True)
    return np.divide(matrix, totals, out=np.full(matrix.shape, np.nan), where=totals > 0)


def _pixel_shares(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """(C): the share of each class in the truth."""
    return np.asarray(matrix.sum(1) / max(matrix.sum(), 1))


def _origin(facts: Facts, tally: Tally) -> dict[str, str]:
    """Where the scores come from."""
    registered = {"registered as": f"{facts.name}, version {facts.version}"} if facts.name else {}
    return {
        "model": facts.model_uri,
        **registered,
        "weights (SHA-256)": facts.weights_digest,
        "data": f"{facts.data_name}, split {facts.protocol.split}: {len(tally.sample_ids)} images",
        "data at": facts.protocol.data,
        "data digest": facts.data_digest,
        "protocol": describe_protocol(facts.protocol),
        "code": facts.commit,
        "finished": facts.at,
    }


def _scores(facts: Facts, tally: Tally) -> list[tuple[str, str, str]]:
    """What stands at the top: name, value, and what there is to be said of it."""
    confusion, calibration = tally.confusion, tally.calibration
    sure = "too sure of itself" if calibration.overconfidence > 0 else "not sure enough"
    latency, memory, devices = tally.latency_ms, tally.memory_bytes, ", ".join(tally.devices.tolist())
    absent = confusion.num_absent
    over = f"over {confusion.num_classes - absent} classes" + (f", {absent} not in the truth" if absent else "")
    scores = [
        ("mIoU", f"{percent(confusion.mean_iou)} %", over),
        ("pixel accuracy", f"{percent(confusion.pix_acc)} %", "of the labelled pixels"),
        ("boundary F-score", f"{percent(tally.boundary.mean_f_score)} %", "mean over classes"),
        ("calibration error", f"{percent(calibration.ece)} %", sure),
        ("parameters", f"{facts.parameters / 1e6:.1f} M", "as it predicts"),
    ]
    if latency is not None:
        scores.append(("time per image", f"{latency:.0f} ms", f"{devices}, batches of {facts.protocol.batch_size}"))
    if memory is not None:
        scores.append(("GPU memory", f"{memory / 1e9:.2f} GB", "at most"))
    return scores


def _class_rows(facts: Facts, tally: Tally, comparison: Comparison | None) -> list[dict[str, Any]]:
    columns = class_columns(facts, tally)
    other = comparison.other.tally.confusion.iou.tolist() if comparison else [math.nan] * len(facts.classes)
    rows = zip(*columns.values(), other, facts.palette, strict=True)
    return [
        {"name": name, "iou": iou, "f": f, "share": share, "other": before, "colour": f"rgb{tuple(colour)}"}
        for name, iou, f, share, before, colour in rows
    ]


def _draw_matrix(matrix: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """The row-normalised confusion matrix: a picture of its cells, names and numbers where there is room for them."""
    shares, count = row_shares(matrix), len(classes)
    cell = min(_MOST_CELL, max(_LEAST_CELL, _MATRIX // count))
    filled = np.nan_to_num(shares)[..., None] ** 0.6  # else what is a few percent could not be seen
    colours = np.where(np.isnan(shares)[..., None], _ABSENT, 255 + filled * (_DARKEST - 255)).astype(np.uint8)
    cells = colours.repeat(cell, 0).repeat(cell, 1)
    names = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in classes]
    names = names if count <= MOST_LABELLED else []
    numbered = np.argwhere(np.nan_to_num(shares) >= 0.005).tolist() if count <= MOST_NUMBERED else []
    numbers = [
        {"row": row, "column": column, "text": f"{100 * shares[row, column]:.0f}", "light": shares[row, column] > 0.35}
        for row, column in numbered
    ]
    margin = int(_LETTER * max(map(len, names), default=4)) + 12
    png = cv2.imencode(".png", cells[..., ::-1])[1].tobytes()
    return {"cell": cell, "side": cell * count, "margin": margin, "names": names, "numbers": numbers,
            "picture": _data_uri(png, "png")}  # fmt: skip


def _draw_reliability(calibration: Calibration) -> list[dict[str, float]]:
    """The bins as bars: where they stand and how high they are, as shares of the plot."""
    bins, most = calibration.num_bins, max(int(calibration.num_pixels.max()), 1)
    pixels = np.maximum(calibration.num_pixels, 1)
    return [
        {
            "left": at / bins,
            "width": 1 / bins,
            "accuracy": float(calibration.num_right[at] / pixels[at]),
            "confidence": float(calibration.confidence[at] / pixels[at]),
            "height": float(calibration.num_pixels[at] / most),
            "opacity": round(0.25 + 0.75 * math.sqrt(calibration.num_pixels[at] / most), 3),
            "share": float(calibration.num_pixels[at] / max(calibration.num_pixels.sum(), 1)),
        }
        for at in np.flatnonzero(calibration.num_pixels).tolist()
    ]


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
