"""The report of an evaluation: what it says, that it is whole by itself, and that nothing in it comes to life."""

from __future__ import annotations

import base64
import dataclasses
import math
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation_plan import Protocol
from pipeline.evaluation_report import (
    Comparison,
    class_columns,
    confused_pairs,
    describe_difference,
    describe_protocol,
    percent,
    render,
    row_shares,
    summarize,
)
from pipeline.evaluation_tally import join_tallies
from tests.unit.pipeline.made_up_tally import made_up_record, made_up_tally

CLASSES = ("road", "sky", "car")
PICTURES = [b"\xff\xd8 one", b"\xff\xd8 two"]
_VOID = {"meta", "img", "br"}
_CLOSED = {"image", "rect", "line", "circle"}
"""Of SVG: written as <rect ... />."""


class Page(HTMLParser):
    """Reads a page as a browser would, and complains where tags don't match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _CLOSED
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(filter(None, self.texts))


def test_the_report_tells_what_was_evaluated_and_what_came_out() -> None:
    record = made_up_record(made_up_tally(list(range(9))), CLASSES)
    page = Page(render(record.facts, record.tally, PICTURES))
    confusion = record.tally.confusion
    for expected in (
        "encnet-street v3 on street/val",
        f"mIoU {percent(confusion.mean_iou)} % over 3 classes",
        f"calibration error {percent(record.tally.calibration.ece)} %",
        "time per image 14 ms one CPU core, batches of 4",
        "parameters 12.3 M",
        "models:/encnet-street/3",
        "street, split val: 9 images",
        "ab" * 32,
        "cd" * 32,
        "whole images; scale 1",
        "0123abc",
        "check: each sample once passed",
        "check: probabilities are numbers not so in 1 of 9 images, e.g. 'a'",
        "night/a1: mIoU 1.23 %",
    ):
        assert expected in page.text, expected
    assert "GPU memory" not in page.text
    assert "Against" not in page.text
    for name, iou, f, share in zip(*class_columns(record.facts, record.tally).values(), strict=True):
        assert f"{name} {percent(iou)} {percent(f)} {percent(share)}" in page.text
    pictures = [value for name, value in page.attributes if name == "src"]
    assert [base64.b64decode(uri.partition("base64,")[2]) for uri in pictures] == PICTURES


def test_nothing_is_fetched_and_no_script_is_there() -> None:
    record = made_up_record(made_up_tally([0, 1]), CLASSES)
    html = render(record.facts, record.tally, PICTURES)
    page = Page(html)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert "url(" not in html
    assert "@import" not in html
    addresses = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "data", "action")]
    assert addresses
    assert all(value.startswith("data:image/") for value in addresses)
    assert not [name for name, _ in page.attributes if name.startswith("on")]


@pytest.mark.parametrize(
    "evil",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "' onload='alert(1)",
        "{{ 7 * 7 }}",
        "</td></table>",
        "a & b",
    ],
)
def test_what_comes_from_data_is_only_text(evil: str) -> None:
    record = made_up_record(made_up_tally(list(range(9))), (evil, "sky", "car"), name=evil)
    facts = dataclasses.replace(
        record.facts,
        data_name=evil,
        checks={evil: evil},
        worst=(dataclasses.replace(record.facts.worst[0], key=evil), record.facts.worst[1]),
        protocol=Protocol(data=evil, split=evil),
        commit=evil,
    )
    tame = made_up_record(record.tally, CLASSES).facts
    tags = sorted(Page(render(dataclasses.replace(tame, checks={"a": "b"}), record.tally, PICTURES)).tags)
    page = Page(render(facts, record.tally, PICTURES))
    assert sorted(page.tags) == tags, "no more than with plain words"
    assert " ".join(evil.split()) in page.text
    other = made_up_record(made_up_tally(list(range(9)), right=0.5), (evil, "sky", "car"), name=evil)
    compared = Page(render(facts, record.tally, PICTURES, Comparison(other=other, difference=record.over(other))))
    assert not [name for name, _ in page.attributes + compared.attributes if name.startswith("on")]
    assert "script" not in compared.tags


def test_a_comparison_shows_the_difference_and_both_models_classes() -> None:
    ours = made_up_record(made_up_tally(list(range(30)), right=0.9), CLASSES)
    theirs = made_up_record(made_up_tally(list(range(30)), right=0.5), CLASSES, version="2")
    for record, other, words in ((ours, theirs, "better"), (theirs, ours, "worse")):
        difference = record.over(other)
        assert difference.value == pytest.approx(record.miou - other.miou)
        comparison = Comparison(other=other, difference=difference)
        page = Page(render(record.facts, record.tally, PICTURES, comparison))
        assert f"Against encnet-street v{other.facts.version}" in page.text
        assert f"{describe_difference(difference)} over models:/encnet-street/{other.facts.version} " in page.text
        assert (
            f": {words} by more than noise. encnet-street v{other.facts.version} has {percent(other.miou)} %."
            in page.text
        )
        mine, its = (one.tally.confusion.iou.tolist() for one in (record, other))
        for name, iou, before in zip(CLASSES, mine, its, strict=True):
            assert f"{name} {percent(iou)} {percent(before)} {100 * (iou - before):+.2f}" in page.text
    same = Comparison(other=ours, difference=ours.over(ours))
    assert "not more than noise" in Page(render(ours.facts, ours.tally, PICTURES, same)).text


def test_differences_are_told_with_their_interval() -> None:
    ours = made_up_record(made_up_tally(list(range(30)), right=0.9), CLASSES)
    theirs = made_up_record(made_up_tally(list(range(30)), right=0.5), CLASSES)
    found = dataclasses.replace(ours.over(theirs), value=0.0123, low=-0.002, high=0.0231)
    assert describe_difference(found) == "+1.23 points of mIoU (95 %: -0.20 to +2.31)"


@pytest.mark.parametrize("num_classes", [1, 20, 21, 40, 41, 150])
def test_any_number_of_classes_has_a_readable_picture(num_classes: int) -> None:
    classes = tuple(f"class {place} of a rather long name" for place in range(num_classes))
    tally = made_up_tally(list(range(5)), num_classes)
    record = made_up_record(tally, classes)
    html = render(record.facts, tally, PICTURES)
    page = Page(html)
    (uri,) = (value for name, value in page.attributes if name == "href")
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(uri.partition("base64,")[2]), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert picture is not None
    cell = picture.shape[0] // num_classes
    assert picture.shape == (cell * num_classes, cell * num_classes, 3)
    assert 4 <= cell <= 40
    cells = picture[cell // 2 :: cell, cell // 2 :: cell].astype(int)
    shares = row_shares(tally.matrix)
    darkness = 255 - cells[..., 0]
    known = ~np.isnan(shares)
    order = np.argsort(shares[known], kind="stable")
    assert (np.diff(darkness[known][order]) >= 0).all(), "the more, the darker"
    assert (cells[~known] == 225).all()
    assert len(re.findall(r"rotate\(-90\)\">class ", html)) == (num_classes if num_classes <= 40 else 0)
    assert ('text-anchor="middle" class="light"' in html) == (num_classes <= 20)


def test_classes_that_are_nowhere_show_a_dash() -> None:
    tally = made_up_tally([0, 1], num_classes=2)
    wider = dataclasses.replace(
        tally,
        counts=np.pad(tally.counts, ((0, 0), (0, 0), (0, 1))),
        matrix=np.pad(tally.matrix, (0, 1)),
        boundary_total=np.pad(tally.boundary_total, (0, 1)),
        boundary_images=np.pad(tally.boundary_images, (0, 1)),
    )
    page = Page(render(made_up_record(wider, CLASSES).facts, wider, PICTURES))
    assert "car – – 0.00" in page.text
    assert "over 2 classes, 1 not in the truth" in page.text


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32), st.integers(0, 12))
def test_the_pairs_that_are_confused_most(num_classes: int, seed: int, most: int) -> None:
    matrix = np.random.default_rng(seed).integers(0, 4, (num_classes, num_classes))
    pairs = confused_pairs(matrix, most)
    wrong = {
        (truth, predicted): int(matrix[truth, predicted])
        for truth in range(num_classes)
        for predicted in range(num_classes)
        if truth != predicted and matrix[truth, predicted]
    }
    assert len(pairs) == min(most, len(wrong))
    assert [pair.num_pixels for pair in pairs] == sorted(wrong.values(), reverse=True)[: len(pairs)]
    for pair in pairs:
        assert wrong[pair.truth, pair.predicted] == pair.num_pixels
        assert pair.share == pytest.approx(pair.num_pixels / matrix[pair.truth].sum())


def test_rows_add_up_to_one_or_are_unknown() -> None:
    shares = row_shares(np.array([[3, 1, 0], [0, 0, 0], [2, 0, 2]]))
    assert np.array_equal(shares, [[0.75, 0.25, 0], [math.nan] * 3, [0.5, 0, 0.5]], equal_nan=True)


def test_a_protocol_in_words() -> None:
    assert describe_protocol(Protocol(data="x")) == "whole images; scale 1"
    assert describe_protocol(Protocol(data="x", scales=(0.75, 1.25), flip=True, crop_size=480)) == (
        "a window of 480 x 480; mean over the scales 0.75, 1.25; mirrored too"
    )


def test_the_summary_names_the_scores_and_where_the_rest_is() -> None:
    tally = join_tallies([made_up_tally([1, 0])], 2)
    text = summarize(made_up_record(tally, CLASSES).facts, tally)
    assert text.startswith(f"**mIoU {percent(tally.confusion.mean_iou)} %**, pixAcc ")
    assert "of `models:/encnet-street/3` on 2 images (whole images; scale 1)." in text
    assert "`report/index.html`" in text
