"""Where the members of a tar file lie, read from its headers alone: what tarfile does not tell, or hides.

tarfile ends in silence at a damaged header or a missing end, follows a hostile header into endless loops, and keeps no
place of the long-name headers before a member. Here every archive gives its members or a ValueError that says why not.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

BLOCK = tarfile.BLOCKSIZE
MAX_HEADER_BYTES = 1 << 20
"""Of the extended headers (long names, pax records) before one member."""
MAX_NAME = 1024
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_EXTENDED = (*_PAX, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")
_SAMPLE_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
_UNWRITABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")

ReadAt = Callable[[int, int], bytes]
"""(offset, length) -> the bytes there, fewer only where the archive ends."""


class Member(NamedTuple):
    """A file in a tar archive; all in bytes from the archive's start."""

    name: str
    start: int
    """Where its first header begins, extended ones included."""
    data: int
    """Where its contents begin."""
    size: int
    """Of its contents."""
    stop: int
    """Where the next member's headers begin."""


def walk_members(read: ReadAt, size: int, *, whole: bool) -> Iterator[Member]:
    """The files of an archive of `size` bytes, in order; folders are left out. Not `whole`: of a run cut from one.

    Ends at the first block of zeros or, in a run, at `size`; of a whole archive the mark of its end has to be there,
    and nothing after it. Raises ValueError, naming the member, for a header that is damaged or cut off, contents that
    reach beyond `size`, and members that are no plain files: links, devices, sparse files.
    """
    start = offset = 0
    long: dict[str, str] = {}
    while offset < size and any(block := read(offset, BLOCK)):
        header = _parse_header(block, offset)
        data, length = offset + BLOCK, header.size
        if header.type in _EXTENDED:
            if data + length - start > MAX_HEADER_BYTES:
                raise ValueError(f"the headers at byte {start} are longer than {MAX_HEADER_BYTES} bytes: rewrite it")
            offset = _padded(data, length, size, "a header")
            told = _parse_extended(header, read(data, offset - data))
            if twice := sorted(long.keys() & told):
                raise ValueError(f"the headers at byte {start} give a {twice[0]} twice: rewrite it")
            long |= told
            continue
        name = long.get("path", header.name)
        if "size" in long:
            length = _pax_size(long["size"])
        if header.type == tarfile.DIRTYPE:
            length = 0
        elif header.type not in _FILES or "GNU.sparse" in long:
            kind = "a sparse file" if "GNU.sparse" in long else _KINDS.get(header.type, f"of type {header.type!r}")
            raise ValueError(f"member {name!r} is {kind}: rewrite the shard with plain files")
        offset = _padded(data, length, size, f"member {name!r}")
        if header.type in _FILES:
            yield Member(name, start, data, length, offset)
        start, long = offset, {}
    if start != offset:
        raise ValueError(f"cut off at byte {offset}, after a header of a member that is not there: write it again")
    if whole:
        _check_end(read, offset, size)


def sample_name(name: str) -> tuple[str, str] | None:
    """A member's name -> (key, extension in lower case) as webdataset splits it; None for one that is no sample's.

    The extension begins at the first dot after the last `/`; a `./` in front is dropped. Hidden files, names without a
    dot and webdataset's `__name__` are no sample's. Raises ValueError for a name that leads out of a folder or that
    can't be written.
    """
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"member {name!r} leads out of the archive: rewrite the shard with relative names")
    if len(name) > MAX_NAME:
        raise ValueError(f"member {name[:80]!r}… has a name of {len(name)} letters: {MAX_NAME} are taken, rename it")
    if _UNWRITABLE.search(name):
        raise ValueError(f"member {name!r} has a name that is not UTF-8 text of one line: rename it")
    name = re.sub(r"^(\./+)+", "", name)
    match = _SAMPLE_NAME.fullmatch(name)
    if match is None or re.match(r"__[^/]*__(/|$)", name):
        return None
    return match[1], match[2].lower()


def _parse_header(block: bytes, offset: int) -> tarfile.TarInfo:
    if offset == 0:
        for magic, kind in _COMPRESSED.items():
            if block.startswith(magic):
                raise ValueError(f"is compressed with {kind}, so no part of it can be read alone: unpack it")
    if len(block) < BLOCK:
        raise ValueError(f"cut off at byte {offset + len(block)}, within a header: write it again")
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise ValueError(f"has no tar header at byte {offset} ({error}): write it again") from error
    if header.size < 0:
        raise ValueError(f"member {header.name!r} has a size of {header.size}: write it again")
    return header


def _check_end(read: ReadAt, stop: int, size: int) -> None:
    if size - stop < BLOCK:
        raise ValueError(f"cut off at byte {size}: the mark of the archive's end is missing: write it again")
    for offset in range(stop, size, 1 << 20):
        if any(read(offset, min(1 << 20, size - offset))):
            raise ValueError(
                f"has data after the archive's end, within 1 MiB of byte {offset}: no reader sees it, "
                "as when tar files are joined by cat: join them with 'tar --concatenate'"
            )


def _padded(data: int, length: int, size: int, what: str) -> int:
    stop = data + length + -length % BLOCK
    if stop > size:
        raise ValueError(f"cut off at byte {size}: {what} ends at byte {stop}: write it again")
    return stop


def _parse_extended(header: tarfile.TarInfo, text: bytes) -> dict[str, str]:
    """What an extended header, of whole blocks, says of the next member: "path", "size", and whether it is sparse."""
    if header.type == tarfile.GNUTYPE_LONGNAME:
        # Up to a zero wherever that is, as tarfile does: both must read the same name.
        return {"path": _decode(text.partition(b"\0")[0])}
    if header.type not in _PAX:
        return {}
    told: dict[str, str] = {}
    for key, value in _pax_records(text[: header.size]):
        if key in ("path", "size"):
            told[key] = value.rstrip("/")
        elif key.startswith("GNU.sparse"):
            told["GNU.sparse"] = value
    if header.type == tarfile.XGLTYPE and told:
        raise ValueError(f"sets {', '.join(sorted(told))} of all members at once: rewrite it with plain headers")
    return told


def _pax_records(text: bytes) -> Iterator[tuple[str, str]]:
    """Records of "LENGTH KEY=VALUE\\n", LENGTH counting all of it; after POSIX.1-2008, pax, "Extended Header"."""
    at = 0
    while at < len(text) and text[at]:
        match = _RECORD.match(text, at)
        stop = at + int(match[1]) if match else 0
        if match is None or not match.end() < stop <= len(text) or text[stop - 1] != ord("\n"):
            raise ValueError("has a damaged pax header: write it again")
        yield _decode(match[2]), _decode(text[match.end() : stop - 1])
        at = stop


def _pax_size(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError(f"has a pax header with a size of {text[:40]!r}: write it again")
    return int(text)


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")
