"""What an INPUT stands for: files, folders, patterns, links; and what stands for nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError, StorageError
from pipeline.predict_inputs import find_inputs, load_image
from pipeline.storage import LocalStore, S3Store, open_store
from tests.unit.pipeline.made_up_data import png

DATA = png(np.zeros((2, 3, 3), np.uint8))


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for key in ("b.png", "a.png", "x/frame10.png", "x/frame9.png", "x/y/c.png", ".hidden.png", "notes.txt"):
        (tmp_path / "photos" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / key).write_bytes(DATA)
    return tmp_path / "photos"


def keys_of(*texts: str | Path, output: str = "out") -> list[str]:
    return [one.key for one in find_inputs([str(text) for text in texts], open_store(output)).images]


@pytest.mark.usefixtures("photos")
def test_files_folders_and_patterns() -> None:
    every = ["a.png", "b.png", "x/frame9.png", "x/frame10.png", "x/y/c.png"]
    assert keys_of("photos") == keys_of("photos/") == keys_of("photos/**/*.png") == keys_of("./photos") == every
    assert keys_of("photos/*.png") == ["a.png", "b.png"]
    assert keys_of("photos/*/frame?.png") == ["x/frame9.png"]
    assert keys_of("photos/x/y/c.png") == ["c.png"]
    assert keys_of("photos/x/y/c.png", "photos/b.png", "photos/x") == [
        "c.png", "b.png", "frame9.png", "frame10.png", "y/c.png",
    ]  # fmt: skip
    assert keys_of("photos/a.png", "photos/a.png") == ["a.png"]


def test_a_version_is_that_of_a_read(photos: Path) -> None:
    (photos / "empty.png").touch()
    for text in (photos, photos / "b.png", photos / "empty.png"):
        for one in find_inputs([str(text)], open_store("out")).images:
            assert (
                one.version
                == LocalStore(root=photos).read_versioned(Path(one.uri).relative_to(photos).as_posix()).version
            )


def test_a_name_with_wildcards_that_is_there_is_a_name(photos: Path) -> None:
    (photos / "a[1].png").write_bytes(DATA)
    (photos / "z[2]").mkdir()
    (photos / "z[2]/d.png").write_bytes(DATA)
    assert keys_of("photos/a[1].png") == ["a[1].png"]
    assert keys_of("photos/z[2]") == ["d.png"]


def test_what_lies_in_the_output_is_no_input(photos: Path) -> None:
    before = keys_of("photos", output="photos/out")
    (photos / "out").mkdir()
    (photos / "out/a.png").write_bytes(DATA)
    assert keys_of("photos", output="photos/out") == keys_of("photos", output="photos/x/../out") == before
    for output in ("photos", ".", "photos/out/.."):
        with pytest.raises(InputError, match=r"^INPUT: 'photos/b\.png': lies in OUTPUT, .*: give another OUTPUT$"):
            keys_of("photos/b.png", output=output)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "INPUT: 'nothing': there is no such file or folder: check the path"),
        ("nothing/*.png", "INPUT: 'nothing/*.png': there is no such file or folder: check the path"),
        ("photos/*.jpg", "INPUT: 'photos/*.jpg': no .jpg, .jpeg or .png there: give an image, a folder or a pattern"),
        (
            "photos/*.txt",
            "INPUT: 'photos/*.txt': no .jpg, .jpeg or .png there, but 1 of .txt: give an image, a folder or ",
        ),
        ("", "uri: '' names no place: give s3://bucket/prefix or a path"),
        ("gs://bucket/x", "gs://bucket/x: storage of kind 'gs' is not known: give s3://bucket/prefix or a path"),
        ("s3://", "s3://: the bucket's name is missing: give s3://bucket/prefix"),
    ],
)
@pytest.mark.usefixtures("photos")
def test_what_stands_for_nothing_is_named(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        keys_of(text)
    assert str(caught.value).startswith(message)


def test_two_inputs_of_one_name_are_named(photos: Path) -> None:
    (photos / "x/y/a.png").write_bytes(DATA)
    said = rf"^INPUT: {photos}/a\.png and {photos}/x/y/a\.png would both be written as 'a': "
    with pytest.raises(InputError, match=said):
        keys_of("photos", "photos/x/y/a.png")
    (photos / "a.jpg").write_bytes(DATA)
    with pytest.raises(
        InputError, match=rf"^INPUT: {photos}/a\.jpg and {photos}/a\.png would both be written as 'a': "
    ):
        keys_of("photos")


def test_objects_of_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = {"in/a.jpg": '"1"', "in/x/b.png": '"2"', "in/x/notes.txt": '"3"', "in2/c.jpg": '"4"'}

    def versions(store: S3Store, prefix: str = "") -> dict[str, str]:
        root = f"{store.prefix}/" if store.prefix else ""
        return {key.removeprefix(root): tag for key, tag in objects.items() if key.startswith(root + prefix)}

    monkeypatch.setattr(S3Store, "versions", versions)
    assert keys_of("s3://bucket/in") == keys_of("s3://bucket/in/") == ["a.jpg", "x/b.png"]
    assert keys_of("s3://bucket/in/x/b.png") == ["b.png"]
    assert keys_of("s3://bucket/i*/*.jpg") == ["in/a.jpg", "in2/c.jpg"]
    assert keys_of("s3://bucket", output="s3://bucket/in2") == ["in/a.jpg", "in/x/b.png"]
    (one,) = find_inputs(["s3://bucket/in/a.jpg"], open_store("out")).images
    assert (one.uri, one.version) == ("s3://bucket/in/a.jpg", '"1"')
    for missing in ("s3://bucket/in/a", "s3://bucket/none/x.jpg"):
        with pytest.raises(InputError, match=r"there is no such object, and none below it: check the address$"):
            keys_of(missing)


def test_links_are_followed_also_out_of_the_folder(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.png").write_bytes(DATA)
    (photos / "link.png").symlink_to(tmp_path / "elsewhere.png")
    for text in ("photos/link.png", "photos/l*.png"):
        (one,) = find_inputs([text], open_store("out")).images
        image, version, fault = load_image(one)
        assert image is not None
        assert (one.key, version, fault, image.shape) == ("link.png", one.version, "", (2, 3, 3))


def test_what_is_wrong_with_an_image_is_told(photos: Path) -> None:
    (photos / "a.png").write_bytes(b"GIF89a..")
    (photos / "b.png").write_bytes(DATA[:40])
    first, second, third, *_ = find_inputs(["photos"], open_store("out")).images
    assert load_image(first).fault == "is neither JPEG nor PNG (it begins with b'GIF89a..')"
    assert load_image(second).fault == "can't be decoded as an image (40 bytes)"
    (photos / third.key).unlink()
    assert load_image(third) == (None, "", "is no longer there")


def test_a_store_that_fails_is_no_bad_image(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = find_inputs(["photos"], open_store("out")).images[0]

    def fail(*_: object, **__: object) -> None:
        raise StorageError("the disk is gone")

    monkeypatch.setattr(LocalStore, "read_versioned", fail)
    with pytest.raises(StorageError, match="the disk is gone"):
        load_image(one)
    refused = one._replace(root="s3://bucket")

    def refuse(*_: object, **__: object) -> None:
        raise InputError("access denied")

    monkeypatch.setattr(S3Store, "read_versioned", refuse)
    monkeypatch.setattr(LocalStore, "read_versioned", refuse)
    with pytest.raises(InputError, match="access denied"):
        load_image(refused)
    assert load_image(one).fault == "access denied"
