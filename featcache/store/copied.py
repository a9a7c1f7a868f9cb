"""Results of ``featcache merge`` and ``featcache convert``."""

from dataclasses import asdict, dataclass
from typing import Any

from featcache.store.paths import FileFormat
from featcache.summary import Summary
from featcache.units import readable_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPlan:
    """What a copy holds.

    Attributes:
        stores: The stores that are read.
        out: The new store.
        file_format: Its file format.
        features: Names of the arrays.
        videos: Number of videos, with rows or with the reason why they have none.
        removed: Number of removed videos, which stay out.
        rows: Number of rows of each array.
        generations_before: Number of generations of the stores that are read, together.
        generations: Number of generations of the new store.
        shards: Number of shards of the new store.
        num_bytes: Bytes of the rows of all arrays.
        free_bytes: Bytes that are free where the new store lies; ``None`` in a bucket.
    """

    stores: tuple[str, ...]
    out: str
    file_format: FileFormat
    features: tuple[str, ...]
    videos: int
    removed: int
    rows: int
    generations_before: int
    generations: int
    shards: int
    num_bytes: int
    free_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    def summary(self) -> Summary:
        """What to show of it."""
        return Summary(facts=self.facts())

    def facts(self) -> dict[str, object]:
        """Names and values of the summary."""
        out = f", {self.removed} removed ones stay out" if self.removed else ""
        free = "" if self.free_bytes is None else f", {readable_bytes(self.free_bytes)} are free"
        return {
            "from": ", ".join(self.stores),
            "store": f"{self.out} ({self.file_format})",
            "features": ", ".join(self.features),
            "videos": f"{self.videos}{out}",
            "rows": self.rows,
            "generations": f"{self.generations}, {self.generations_before} before",
            "shards": self.shards,
            "size": readable_bytes(self.num_bytes) + free,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """Result of a copy.

    Attributes:
        plan: What the new store holds.
        rows_written: Number of rows of all arrays that this call wrote.
        shards_elsewhere: Number of shards that another process was writing.
        config: The YAML file that repeats the command.
    """

    plan: CopyPlan
    rows_written: int
    shards_elsewhere: int
    config: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        own = {name: getattr(self, name) for name in ("rows_written", "shards_elsewhere", "config")}
        return {**self.plan.to_dict(), **own}

    def summary(self) -> Summary:
        """What to show of it."""
        waiting = f"{self.shards_elsewhere} shards are being written by another process; run again when it is done"
        return Summary(
            facts={
                **self.plan.facts(),
                "written now": f"{self.rows_written} rows, all features together",
                "settings": self.config,
            },
            warnings=(waiting,) if self.shards_elsewhere else (),
            next_command=f"featcache verify {self.plan.out}",
        )
