"""Walking through tar files: against tarfile on sound ones, by name on hostile ones, and fuzzed."""

from __future__ import annotations

import io
import tarfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tar_members import Member, sample_name, walk_members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
NAMES = ("a.jpg", "a.seg.png", "folder.v1/b.jpg", "folder.v1/" + "x" * 99 + ".png", "d/" * 120 + "long.png", "ü.png")


def make_tar(members: list[tuple[str, bytes]], kind: int = tarfile.PAX_FORMAT, **header: str) -> bytes:
    """An archive of files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind, pax_headers=header or None) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def make_special(name: str, kind: bytes) -> bytes:
    """An archive of one member that is no plain file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "../../etc/passwd"
        tar.addfile(info)
    return file.getvalue()


def walk(data: bytes) -> list[Member]:
    def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    return list(walk_members(read, len(data), whole=True))


@pytest.mark.parametrize("kind", FORMATS.values(), ids=FORMATS)
def test_members_are_where_tarfile_finds_them(kind: int) -> None:
    names = [name for name in NAMES if kind != tarfile.USTAR_FORMAT or len(name) < 100]
    data = make_tar([(name, name.encode() * place) for place, name in enumerate(names)], kind)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(info.name, info.offset, info.offset_data, info.size) for info in tar]
    found = walk(data)
    assert [(member.name, member.start, member.data, member.size) for member in found] == expected
    assert [member.stop for member in found[:-1]] == [member.start for member in found[1:]]
    assert [data[member.data : member.data + member.size] for member in found] == [
        name.encode() * place for place, name in enumerate(names)
    ]


def test_folders_and_comments_for_all_are_passed_over() -> None:
    data = make_tar([("a.jpg", b"x")], comment="made by git archive")
    assert [member.name for member in walk(data)] == ["a.jpg"]
    assert walk(make_special("folder", tarfile.DIRTYPE)) == []


SMALL = make_tar([("a.jpg", b"x" * 700)], tarfile.USTAR_FORMAT)


def _with_size(field: bytes) -> bytes:
    """SMALL with another text in its size field, and the checksum that goes with it."""
    header = bytearray(SMALL[:512])
    header[124:136] = field.ljust(12, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + SMALL[512:]


HOSTILE = {
    "hard link": (make_special("a.png", tarfile.LNKTYPE), r"member 'a\.png' is a hard link: rewrite the shard with"),
    "symbolic link": (make_special("a.png", tarfile.SYMTYPE), r"member 'a\.png' is a symbolic link: rewrite"),
    "device": (make_special("a.png", tarfile.CHRTYPE), r"member 'a\.png' is a device: rewrite"),
    "block device": (make_special("a.png", tarfile.BLKTYPE), r"member 'a\.png' is a device: rewrite"),
    "pipe": (make_special("a.png", tarfile.FIFOTYPE), r"member 'a\.png' is a pipe: rewrite"),
    "old sparse": (make_special("a.png", tarfile.GNUTYPE_SPARSE), r"member 'a\.png' is a sparse file: rewrite"),
    "unknown": (make_special("a.png", b"Z"), r"member 'a\.png' is of type b'Z': rewrite"),
    "cut in data": (SMALL[:1000], r"cut off at byte 1000: member 'a\.jpg' ends at byte 1536: write it again"),
    "cut in header": (SMALL[:300], r"cut off at byte 300, within a header: write it again"),
    "cut at a member": (SMALL[:1536], r"cut off at byte 1536: the mark of the archive's end is missing"),
    "empty file": (b"", r"cut off at byte 0: the mark of the archive's end is missing"),
    "cut after a long name": (
        make_tar([("x" * 120, b"")], tarfile.GNU_FORMAT)[:1024], r"cut off at byte 1024, after a header of a member",
    ),
    "damaged header": (SMALL[:4] + b"!" + SMALL[5:], r"has no tar header at byte 0 \(bad checksum\): write it again"),
    "joined": (SMALL + SMALL, r"has data after the archive's end, within 1 MiB of byte 1536: no reader sees it"),
    "gzip": (b"\x1f\x8b" + SMALL, r"is compressed with gzip, so no part of it can be read alone: unpack it"),
    "negative size": (_with_size(b"\xff" * 11 + b"\x00"), r"member 'a\.jpg' has a size of -256: write it again"),
    "huge size": (_with_size(b"\x80\x7f" + b"\xff" * 10), r"cut off at byte \d+: member 'a\.jpg' ends at byte \d+"),
    "name for all": (
        make_tar([("a.jpg", b"")], path="b.jpg"), r"sets path of all members at once: rewrite it with plain headers"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_sound_archive_of_files_is_named(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        walk(data)


def _pax(records: bytes, members: bytes = SMALL) -> bytes:
    """SMALL with a pax header in front."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    return info.tobuf(tarfile.USTAR_FORMAT) + records.ljust(-(-len(records) // 512) * 512, b"\0") + members


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (b"9 path=x\n0 size=1\n", r"has a damaged pax header: write it again"),
        (b"99999 path=x\n", r"has a damaged pax header: write it again"),
        (b"path=x\n", r"has a damaged pax header: write it again"),
        (b"11 size=-5\n", r"has a pax header with a size of '-5': write it again"),
        (b"22 GNU.sparse.major=1\n", r"member 'a\.jpg' is a sparse file: rewrite"),
    ],
)
def test_hostile_pax_headers_are_named(records: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        walk(_pax(records))


def test_a_size_in_a_pax_header_is_the_one_that_counts() -> None:
    (member,) = walk(_pax(b"12 size=700\n9 path=b\n", _with_size(b"0")))
    assert (member.name, member.start, member.data, member.size) == ("b", 0, 1536, 700)


def test_headers_do_not_fill_the_memory() -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 21
    with pytest.raises(ValueError, match=r"the headers at byte 0 are longer than 1048576 bytes: rewrite it"):
        walk(info.tobuf(tarfile.GNU_FORMAT) + b"x" * (1 << 21) + SMALL)
    info.type, info.size = tarfile.GNUTYPE_LONGLINK, 512
    many = (info.tobuf(tarfile.GNU_FORMAT) + b"x" * 512) * 3000
    with pytest.raises(ValueError, match=r"the headers at byte 0 are longer than 1048576 bytes: rewrite it"):
        walk(many + SMALL)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", ("a", "jpg")),
        ("a.seg.png", ("a", "seg.png")),
        ("a.b/c.v1/x.SEG.PNG", ("a.b/c.v1/x", "seg.png")),
        ("./train/x.jpg", ("train/x", "jpg")),
        (".DS_Store", None),
        ("train/._x.jpg", None),
        ("README", None),
        ("__meta__/x.json", None),
    ],
)
def test_names_are_split_as_webdataset_does(name: str, expected: tuple[str, str] | None) -> None:
    from webdataset.tariterators import base_plus_ext

    assert sample_name(name) == expected
    if expected and "./" not in name:
        key, extension = base_plus_ext(name)
        assert (key, extension.lower()) == expected


@pytest.mark.parametrize("name", ["/etc/a.jpg", "../a.jpg", "a/../../b.jpg", ".."])
def test_names_that_lead_out_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"leads out of the archive: rewrite the shard with relative names"):
        sample_name(name)


@pytest.mark.parametrize("name", ["a\nb.jpg", "a\x00.jpg", b"\xff.jpg".decode("utf-8", "surrogateescape")])
def test_names_that_are_no_line_of_text_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"has a name that is not UTF-8 text of one line: rename it"):
        sample_name(name)


def test_names_of_any_length_do_not_fill_the_index() -> None:
    with pytest.raises(ValueError, match=r"has a name of 2004 letters: 1024 are taken, rename it"):
        sample_name("x" * 2000 + ".jpg")


SEEDS = [make_tar([(name, b"data" * 200) for name in NAMES], kind) for kind in list(FORMATS.values())[1:]]
SEEDS += [data for data, _ in HOSTILE.values() if len(data) < 20_000]


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes] = SEEDS) -> bytes:
    """A valid or hostile tar with bytes changed (in headers with their checksum), cut, doubled or left out."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        change = draw(st.sampled_from(["byte", "field", "cut", "leave out", "double"]))
        if change == "byte":
            data[at] = draw(st.integers(0, 255))
        elif change == "field":
            block = at // 512 * 512
            place = block + draw(st.sampled_from([0, 124, 126, 135, 156, 345]))
            new = draw(st.binary(min_size=1, max_size=12))
            data[place : place + len(new)] = new
            _mend_checksum(data, block)
        elif change == "cut":
            del data[at:]
        elif change == "leave out":
            del data[at // 512 * 512 : at // 512 * 512 + 512]
        else:
            block = at // 512 * 512
            data[block:block] = data[block : block + 512]
    return bytes(data)


def _mend_checksum(data: bytearray, block: int) -> None:
    if block + 512 <= len(data):
        header = bytes(data[block : block + 148]) + b" " * 8 + bytes(data[block + 156 : block + 512])
        data[block + 148 : block + 156] = b"%06o\0 " % sum(header)


@settings(deadline=None)
@given(mutated())
def test_any_bytes_give_members_or_an_error_of_one_kind(data: bytes) -> None:
    try:
        members = walk(data)
    except ValueError:
        return
    ends = [0, *(member.stop for member in members)]
    for end, member in zip(ends, members, strict=False):
        assert end <= member.start < member.data <= member.data + member.size <= member.stop <= len(data)
        with suppress(ValueError):
            sample_name(member.name)
    _agrees_with_tarfile(data, members)


def _agrees_with_tarfile(data: bytes, members: list[Member]) -> None:
    """What is accepted, tarfile (and so webdataset) reads the same way: no other pair of name and contents."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(info.name, info.offset_data, info.size) for info in tar if info.isreg()]
    assert [(member.name, member.data, member.size) for member in members] == expected


def test_random_bytes_are_no_archive() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 511, 512, 513, 5000):
        with pytest.raises(ValueError, match=r"cut off at byte|has no tar header at byte 0"):
            walk(rng.bytes(size))
