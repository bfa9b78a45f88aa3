"""What an image's first bytes say, before any memory is given to its pixels."""

from __future__ import annotations

import struct
from typing import NamedTuple

import simplejpeg

MAX_PIXELS = 1 << 27
"""A decoded image of that many takes 400 MB; a file of a few kilobytes can claim a thousand times as many."""
_PNG = b"\x89PNG\r\n\x1a\n"
GREY, PALETTE = 0, 3
_COLOURS = {GREY: "grey", 2: "RGB", PALETTE: "a palette", 4: "grey with alpha", 6: "RGB with alpha"}


class ImageHeader(NamedTuple):
    """Of a JPEG or PNG file."""

    kind: str
    """ "jpg" or "png"."""
    height: int
    width: int
    bit_depth: int
    colour_type: int
    """As in PNG's IHDR; 0 (grey) or 2 (RGB) for a JPEG."""


def read_header(data: bytes) -> ImageHeader:
    """The header of an image file's bytes.

    Raises ValueError when they are empty, neither JPEG nor PNG, damaged, or claim more than `MAX_PIXELS`.
    """
    start = bytes(data[:26])
    if not start:
        raise ValueError("is empty (0 bytes)")
    if start.startswith(_PNG):
        if len(start) < 26 or start[12:16] != b"IHDR":
            raise ValueError(f"is a PNG with a damaged header ({len(data)} bytes)")
        width, height, bit_depth, colour_type = struct.unpack(">IIBB", start[16:26])
        header = ImageHeader("png", height, width, bit_depth, colour_type)
    elif start.startswith(b"\xff\xd8\xff"):
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        except KeyError as error:  # it found no subsampling that it has a name for
            raise ValueError(f"is a JPEG with a damaged or unusual header ({len(data)} bytes)") from error
        header = ImageHeader("jpg", height, width, 8, GREY if colours == "Gray" else 2)
    else:
        raise ValueError(f"is neither JPEG nor PNG (it begins with {start[:8]!r})")
    if not 0 < header.height * header.width <= MAX_PIXELS:
        raise ValueError(f"claims {header.width}x{header.height} pixels: 1 to {MAX_PIXELS:,} are taken")
    return header


def check_ids(label: ImageHeader) -> None:
    """Raise ValueError unless a label file can hold class ids: a PNG of grey or with a palette, of at most 8 bits."""
    if label.kind != "png" or label.colour_type not in (GREY, PALETTE) or label.bit_depth > 8:
        colours = _COLOURS.get(label.colour_type, f"colour type {label.colour_type}")
        raise ValueError(
            f"is a {label.kind} of {colours} with {label.bit_depth} bits, not a png of class ids: write each pixel's "
            "id, as grey or with a palette, with at most 8 bits"
        )


def check_pair(image: bytes, image_extension: str, label: bytes, label_extension: str) -> ImageHeader:
    """The header of an image file, once it and that of its label file are known to fit together.

    Raises ValueError naming the member at fault: what `read_header` refuses, a label that can't hold ids, two sizes.
    """
    headers = {}
    for extension, data in ((image_extension, image), (label_extension, label)):
        try:
            headers[extension] = read_header(data)
            if extension == label_extension:
                check_ids(headers[extension])
        except ValueError as error:
            raise ValueError(f"{extension}: {error}") from error
    of_image, of_label = headers[image_extension], headers[label_extension]
    if of_image[1:3] != of_label[1:3]:
        raise ValueError(
            f"the image is {of_image.width}x{of_image.height}, its label {of_label.width}x{of_label.height}"
        )
    return of_image
