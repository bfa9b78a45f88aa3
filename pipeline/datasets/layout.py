"""What a data set's source is to the rest: named splits of samples, read from a folder or generated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

from pipeline.errors import InputError, did_you_mean
from pipeline.shards import Sample

Palette = tuple[tuple[int, int, int], ...]
"""RGB of each class."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asked to have prepared. None: not said."""

    source: Path | None = None
    splits: tuple[str, ...] | None = None
    sbd: Path | None = None
    train_samples: int | None = None
    val_samples: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class LazySamples(Sequence[Sample]):
    """Samples that are made when they are asked for. A slice holds, and takes to another process, its own alone."""

    make: Callable[[Any], Sample]
    """Makes one from its origin; can be pickled."""
    origins: Sequence[Any] = field(repr=False)
    """What each is made from: files, or a number."""

    def __len__(self) -> int:
        return len(self.origins)

    def __iter__(self) -> Iterator[Sample]:
        return map(self.make, self.origins)

    @overload
    def __getitem__(self, place: int) -> Sample: ...

    @overload
    def __getitem__(self, place: slice) -> LazySamples: ...

    def __getitem__(self, place: int | slice) -> Sample | LazySamples:
        if isinstance(place, slice):
            return replace(self, origins=self.origins[place])
        return self.make(self.origins[place])


@dataclass(frozen=True, kw_only=True)
class SplitSource:
    """One split's samples, not read yet."""

    samples: Sequence[Sample]
    num_bytes: int | None = None
    """Of all their images; None where that is not known beforehand."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The splits that a request stands for."""

    arguments: Mapping[str, Any]
    """What identifies the contents: equal arguments, equal samples."""
    splits: Mapping[str, SplitSource]
    classes: tuple[str, ...] | None = None
    """Where the source names its own classes; None: the layout's."""
    palette: Palette | None = None
    """Given with `classes`."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A kind of data set."""

    name: str
    version: str
    """Changes when the same source comes to give other samples."""
    classes: tuple[str, ...]
    """Empty where each source names its own."""
    palette: Palette
    open: Callable[[Request], Source] = field(repr=False)
    """Finds the samples; InputError when the request or the source is not as the layout wants it."""
    published_counts: Mapping[str, int] = field(default_factory=dict)
    """Samples of each split in the published data set: fewer may be an unfinished download."""


def refuse_options(request: Request, layout: str, names: Iterable[str], remedy: str) -> None:
    """InputError when one of the request's fields `names`, which the layout has no use for, was given."""
    for name in names:
        value = getattr(request, name)
        if value is not None:
            said = ",".join(value) if isinstance(value, tuple) else value
            raise InputError(f"{name.replace('_', '-')}: {said} is nothing for layout {layout!r}: {remedy}")


def source_folder(request: Request, layout: str, contents: str, *, uses: tuple[str, ...] = ()) -> Path:
    """The folder that a layout reads, which holds `contents`.

    InputError when --source is missing, or an option was given that is neither --source, --splits nor one of `uses`.
    """
    if request.source is None:
        raise InputError(f"source: is missing: give --source, the folder that holds {contents}")
    if "sbd" not in uses:
        refuse_options(request, layout, ("sbd",), "it is for layout 'voc2012-aug'")
    refuse_options(request, layout, ("train_samples", "val_samples", "seed"), "it is read from --source whole")
    return request.source


def chosen_splits(request: Request, known: Iterable[str], default: Iterable[str] | None = None) -> tuple[str, ...]:
    """The splits asked for, or else the default ones (all known). InputError for one that is not known."""
    known = tuple(known)
    if request.splits is None:
        return known if default is None else tuple(default)
    for split in request.splits:
        if split not in known:
            raise InputError(f"splits: {split!r} is not known: {did_you_mean(split, known)}")
    return tuple(dict.fromkeys(request.splits))
