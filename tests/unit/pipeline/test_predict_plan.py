"""Which images are predicted: patterns as the standard library's glob, names, order, and what is left to do."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.predict_plan import (
    Input,
    Job,
    choose_images,
    class_map_key,
    fingerprint,
    left_to_do,
    literal_prefix,
    matches,
    natural_order,
    outside,
    overlay_key,
    record_key,
    recorded_names,
    result_keys,
    share_out,
    split_pattern,
    unite,
)

PARTS = st.text("ab10.-", min_size=1, max_size=5).filter(lambda part: not part.startswith("."))
KEYS = st.builds(
    lambda parts, extension: "/".join(parts) + extension,
    st.lists(PARTS, min_size=1, max_size=3),
    st.sampled_from([".jpg", ".png", ".JPEG"]),
)
TREE = ("a.jpg", "b.png", "x/a.jpg", "x/frame1.jpg", "x/frame10.jpg", "x/y/a.jpg", "x/y/b.txt", "z[1]/a.jpg")


def inputs_of(keys: list[str], root: str = "/in") -> list[Input]:
    return [Input(root, key, f"version of {key}") for key in keys]


@pytest.mark.parametrize(
    "pattern",
    [
        "*.jpg",
        "*/a.jpg",
        "**/a.jpg",
        "x/**/*.jpg",
        "x/frame?.jpg",
        "[ab].*",
        "[!a].*",
        "**/*",
        "x/*/*",
        "z[[]1]/*",
        "q*",
    ],
)
def test_patterns_are_those_of_glob(tmp_path: Path, pattern: str) -> None:
    for key in TREE:
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).touch()
    expected = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob(pattern) if path.is_file()}
    found = {key for key in TREE if matches(key, pattern)}
    assert found == expected
    assert all(key.startswith(literal_prefix(pattern)) for key in found)


@pytest.mark.parametrize(
    ("text", "folder", "pattern"),
    [
        ("photos", "photos", ""),
        ("*.jpg", ".", "*.jpg"),
        ("/*.jpg", "/", "*.jpg"),
        ("a/b/**/c?.png", "a/b", "**/c?.png"),
        ("s3://bucket/*.jpg", "s3://bucket", "*.jpg"),
        ("s3://bucket/a/[ab]/x.jpg", "s3://bucket/a", "[ab]/x.jpg"),
    ],
)
def test_a_pattern_begins_with_its_first_wildcard(text: str, folder: str, pattern: str) -> None:
    assert split_pattern(text) == (folder, pattern)


def test_frames_come_in_the_order_of_their_numbers() -> None:
    frames = [f"v/frame{number}.jpg" for number in (1, 2, 10, 11, 100)]
    assert sorted(random.Random(0).sample(frames, 5), key=natural_order) == frames
    assert sorted(["b1", "a10", "a02", "a2", "a"], key=natural_order) == ["a", "a02", "a2", "a10", "b1"]
    assert sorted(["in2/c", "in/a", "in10/b", "in/10"], key=natural_order) == ["in/10", "in/a", "in2/c", "in10/b"]


@given(st.lists(KEYS, unique=True, max_size=8), st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_the_listing_s(keys: list[str], rng: random.Random) -> None:
    images = choose_images(keys).images
    assert Counter(images) == Counter(keys)
    rng.shuffle(keys)
    assert choose_images(keys).images == images


def test_other_files_are_passed_over_and_counted() -> None:
    keys = ["a.jpg", "b.PNG", "notes.txt", "more.TXT", "x/c.webp", "README", "folder/", "._a.jpg", ".git/d.png"]
    images, passed_over = choose_images(keys)
    assert images == ["a.jpg", "b.PNG"]
    assert passed_over == {".txt": 2, ".webp": 1, "none": 1}


@given(st.lists(st.tuples(st.sampled_from(["/in", "/more"]), KEYS), max_size=8))
def test_names_are_unique_or_refused(found: list[tuple[str, str]]) -> None:
    inputs = [Input(root, key, "1") for root, key in found]
    of_name: dict[str, set[str]] = {}
    for one in inputs:
        of_name.setdefault(one.name, set()).add(one.uri)
    if any(len(uris) > 1 for uris in of_name.values()):
        with pytest.raises(InputError, match="would both be written as"):
            unite(inputs)
        return
    united = unite(inputs)
    assert united == list(dict.fromkeys(inputs))
    keys = [key for one in united for key in result_keys(one.name)]
    assert len(set(keys)) == len(keys)


def test_the_two_of_one_name_are_named() -> None:
    with pytest.raises(InputError) as caught:
        unite(inputs_of(["x/a.jpg", "b.jpg", "x/a.png"]))
    assert str(caught.value) == (
        "INPUT: /in/x/a.jpg and /in/x/a.png would both be written as 'x/a': rename one, or give each an OUTPUT of its "
        "own"
    )


@pytest.mark.parametrize("key", ["../a.jpg", "x/../../a.jpg", "/a.jpg", "x//a.jpg", "./a.jpg"])
def test_names_that_lead_out_are_refused(key: str) -> None:
    with pytest.raises(InputError, match="is no name for a result: rename it"):
        unite([Input("s3://bucket", key, "1")])


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("x/a.jpg", "x/a"),
        ("a.v1.PNG", "a.v1"),
        ("photo", "photo"),
        ("photo.webp", "photo.webp"),
        ("a.b/c.jpeg", "a.b/c"),
    ],
)
def test_a_name_is_the_key_without_the_extension(key: str, name: str) -> None:
    assert Input("/in", key, "1").name == name


def test_results_are_never_inputs() -> None:
    inputs = inputs_of(["a.jpg", "out/b.png", "outer/c.png"], root="/work/../work")
    assert [one.key for one in outside(inputs, "/work/out/")] == ["a.jpg", "outer/c.png"]
    assert outside(inputs, "/work") == []
    assert outside(inputs, "/elsewhere") == inputs
    assert outside([Input("s3://b/in", "a.jpg", "1")], "s3://b") == []


@given(st.lists(KEYS, unique_by=lambda key: Input("/in", key, "").name, max_size=8), st.data())
def test_what_is_done_is_left_out(keys: list[str], data: st.DataObject) -> None:
    inputs = inputs_of(keys)
    kinds = [data.draw(st.sampled_from(["new", "finished", "other options", "changed", "no record"])) for _ in inputs]
    there, records = set[str](), dict[str, str]()
    for one, kind in zip(inputs, kinds, strict=True):
        there |= {class_map_key(one.name)} if kind == "no record" else set()
        if kind in ("finished", "other options", "changed"):
            there |= set(result_keys(one.name))
            of = one._replace(version="before") if kind == "changed" else one
            records[one.name] = fingerprint(of, "B" if kind == "other options" else "A")
    assert recorded_names(inputs, there) == list(records)
    jobs = left_to_do(inputs, records, "A", there)
    assert [job.image for job in jobs] == [one for one, kind in zip(inputs, kinds, strict=True) if kind != "finished"]
    for job in left_to_do(inputs, records, "A", there, force=True):
        assert set(job.leftovers) == there & set(result_keys(job.image.name))
        assert record_key(job.image.name) not in job.leftovers[1:]
    assert [job.image for job in left_to_do(inputs, records, "A", there, force=True)] == inputs


def test_a_fingerprint_is_of_the_image_and_the_options() -> None:
    one = Input("/in", "a.jpg", '"etag"')
    same = fingerprint(one, "A")
    assert fingerprint(one._replace(version="etag"), "A") == same
    others = {
        fingerprint(one, "B"),
        fingerprint(one._replace(version="2"), "A"),
        fingerprint(one._replace(root="/"), "A"),
    }
    assert same not in others
    assert len(others) == 3


@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 7))
def test_shares_are_runs_of_whole_batches(num_jobs: int, num_workers: int, batch_size: int) -> None:
    jobs = [Job(one, ()) for one in inputs_of([f"{number}.jpg" for number in range(num_jobs)])]
    shares = share_out(jobs, num_workers, batch_size)
    assert [job for share in shares for job in share] == jobs
    assert all(len(share) % batch_size == 0 for share in shares[:-1])
    assert all(1 <= len(share) < 32 + batch_size for share in shares)
    if num_jobs >= 8 * num_workers * batch_size:
        assert len(shares) >= 2 * num_workers


def test_the_overlay_is_no_class_map() -> None:
    assert (class_map_key("x/a"), overlay_key("x/a"), record_key("x/a")) == ("x/a.png", "x/a.overlay.jpg", "x/a.json")
