"""Who am I among the workers: rank arithmetic as a value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """Rank `rank` of `size` workers."""

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank: {self.rank} is not in 0..{self.size - 1}")

    def share(self, count: int) -> range:
        """This rank's part of 0 .. count-1: neighbours, in rank order; the first ranks have one more where needed."""
        least, more = divmod(count, self.size)
        first = self.rank * least + min(self.rank, more)
        return range(first, first + least + (self.rank < more))

    def lanes(self, first: int, stop: int) -> range:
        """The lanes of [first, stop) that this rank owns: those with lane % size == rank."""
        return range(first + (self.rank - first) % self.size, stop, self.size)
