"""The same samples in all forms that are compared: files, shards on S3 with our index, and MDS on S3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import simplejpeg

from pipeline.shard_writer import write_dataset
from pipeline.shards import Sample
from pipeline.storage import open_store
from pipeline.transforms import Image, Label, TransformConfig
from tests.benchmarks import decode

SPLIT = "train"
NUM_CLASSES = 32
NUM_PICTURES = 300
"""Different ones; a larger data set holds them several times."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Samples 0, 1, 2, ... of key "s00000", ...: a value, for any process."""

    title: str
    uri: str
    """Of our data set; its shards are what stock webdataset reads as well."""
    mds_uri: str
    folder: Path
    """Of the files of the different pictures; sample i is picture i % `num_pictures`."""
    num_samples: int
    num_pictures: int
    transform: TransformConfig
    environment: Mapping[str, str]
    """Settings of the store."""

    def file(self, sample: int, extension: str) -> Path:
        """ "jpg", "png" (the label as most programs write it) or "seg.png" (as shards hold it)."""
        return self.folder / f"{sample % self.num_pictures:05d}.{extension}"

    @property
    def num_bytes(self) -> int:
        """Of all images and labels as shards hold them, without what is around them."""
        return sum(
            self.file(sample, extension).stat().st_size
            for sample in range(self.num_samples)
            for extension in ("jpg", "seg.png")
        )


def write_source(
    folder: Path,
    environment: Mapping[str, str],
    *,
    photo: tuple[int, int],
    crop: tuple[int, int],
    num_samples: int,
    num_pictures: int = NUM_PICTURES,
    samples_per_shard: int,
) -> Source:
    """Pictures of `photo` (height, width) as files in `folder` and as shards on the store."""
    name = f"{photo[1]}x{photo[0]}"
    pictures = "CamVid" if decode.CAMVID.is_dir() else "generated"
    source = Source(
        title=f"{pictures}, {photo[1]} x {photo[0]} to {crop[1]} x {crop[0]}",
        uri=f"s3://encnet/loading/{name}",
        mds_uri=f"s3://encnet/loading-mds/{name}",
        folder=folder / name,
        num_samples=num_samples,
        num_pictures=num_pictures,
        transform=TransformConfig(crop_size=crop),
        environment=dict(environment),
    )
    source.folder.mkdir(parents=True)
    samples = [_write_files(source, *picture) for picture in enumerate(decode.pictures(num_pictures, photo))]
    write_dataset(
        open_store(source.uri),
        {SPLIT: [replace(samples[n % num_pictures], key=f"s{n:05d}") for n in range(num_samples)]},
        name=name,
        version="1",
        classes=tuple(f"class {number}" for number in range(NUM_CLASSES)),
        palette=tuple((number, number, number) for number in range(NUM_CLASSES)),
        samples_per_shard=samples_per_shard,
    )
    return source


def _write_files(source: Source, number: int, picture: tuple[Image, Label]) -> Sample:
    image, label = picture
    jpeg = simplejpeg.encode_jpeg(image, decode.QUALITY, "RGB", "420")
    source.file(number, "jpg").write_bytes(jpeg)
    source.file(number, "png").write_bytes(decode.png(label, cv2.IMWRITE_PNG_ALL_FILTERS))
    source.file(number, "seg.png").write_bytes(decode.png(label))
    return Sample(key=f"s{number:05d}", image=jpeg, extension="jpg", label=label, source=f"picture {number}")
