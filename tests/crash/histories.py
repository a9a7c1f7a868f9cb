"""What befalls the store of the crash model: it is made, grows, gets a third feature, is damaged and healed, swept."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from featcache.recipes import SamplingRecipe
from featcache.store import paths
from featcache.store.completion import reopen_lost
from featcache.store.gc import gc
from featcache.store.writer import StoreWriter
from featcache.testing.stores import StorePlan, add_generation, commit, make_recipe, make_record

Program = Callable[[Path], Iterator[None]]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A command on a store.

    Attributes:
        name: What it does.
        program: Works on the store at a path, and yields whenever something has been promised; run again after a crash.
        before: What befalls the store before, at rest: damage, left-overs.
    """

    name: str
    program: Program
    before: Callable[[Path], None] = lambda path: None


ONE = {"map": make_record((1, 2), "int8")}
TWO = {"pooled": make_record((4,)), "map": make_record((2, 2, 3), "int8")}
THREE = {**TWO, "late": make_record((3,), "float32")}


def _plans(records) -> tuple[StorePlan, StorePlan]:
    first = StorePlan(
        records=records,
        num_videos=4,
        rows_per_video=(3, 5),
        unusable={1: "undecodable"},
        failing={2: "timeout"},
    )
    return first, StorePlan(records=records, num_videos=1, first_video=4)


class _Doubled:
    """A writer whose machine computes other features."""

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer

    def commit_shard(self, generation, shard, *, features, present, rows, outcomes, provenance) -> None:
        features = {name: array * 2 for name, array in features.items()}
        self._writer.commit_shard(
            generation, shard, features=features, present=present, rows=rows, outcomes=outcomes, provenance=provenance
        )


def write(
    path: Path, *, plans: Sequence[StorePlan], file_format: str, doubled: bool = False, reopen: bool = False
) -> Iterator[None]:
    """As ``write_store`` of :mod:`featcache.testing.stores`; yields after each promise.

    Args:
        path: The store.
        plans: A generation each.
        file_format: Of the store.
        doubled: Compute features that are twice those of other writers; where shards are committed they stay.
    """
    with StoreWriter.open(path, sampling=SamplingRecipe(), file_format=file_format) as writer:
        yield
        for number, plan in enumerate(plans):
            with writer.planning_lock():
                if number == len(writer.generations()):
                    add_generation(writer, plan)
            yield
            generation = writer.generations()[number]
            for name, record in plan.records.items():
                writer.declare_feature(name, make_recipe(precision=record.dtype), record)
                yield
            done = [writer.committed(generation, name) for name in plan.records]
            for shard in range(generation.num_shards):
                if not all(shard in shards for shards in done):
                    with writer.shard_lock(generation, shard) as claimed:
                        assert claimed
                        commit(_Doubled(writer) if doubled else writer, generation, shard, plan)
                yield
            for name in plan.records:
                assert not writer.complete(generation, name)
                yield


def reopen(path: Path, *, plans: Sequence[StorePlan], file_format: str) -> Iterator[None]:
    """As the commands do: look for lost records first. Nothing is promised before all are there again."""
    reopen_lost(path)
    for _ in write(path, plans=plans, file_format=file_format):
        pass
    yield


def sweep(path: Path) -> Iterator[None]:
    """Remove left-overs."""
    collect(path)
    yield


def collect(path: Path) -> None:
    """Remove left-overs, alone on a disk that lacks something."""
    gc(path, alone=(path / paths.DISK).exists())


def damage(path: Path, *, lost: str) -> None:
    """A data file is lost; the last commit record of a feature and the last row table are damaged."""
    (path / lost).unlink()
    for pattern in ("g*/commits/map/0*.json", "g*/rows/*.parquet"):
        file = max(path.glob(pattern))
        content = bytearray(file.read_bytes())
        content[40] ^= 1
        file.write_bytes(content)


def lose(path: Path) -> None:
    """A commit record is lost."""
    min(path.glob("g000/commits/map/0*.json")).unlink()


def litter(path: Path) -> None:
    """Left-overs of killed writers, and files that no record refers to."""
    (path / "g000" / ".plan.json.0123456789abcdef.tmp").write_bytes(b"half")
    (path / "features" / ".map.json.0123456789abcdef.tmp").write_bytes(b"")
    (path / "g000" / "rows" / "00000-0123456789abcdef.parquet").write_bytes(b"nobody's")
    (path / "g001" / "videos-0123456789abcdef.parquet").write_bytes(b"nobody's")


def stages(file_format: str) -> list[Stage]:
    """A whole life, in order."""
    first, second = _plans(TWO)
    lost = paths.data(file_format, 0, "pooled", 0, record_ndim=1)
    late = [replace(plan, records=THREE) for plan in (first, second)]
    return [
        Stage(name="create", program=partial(write, plans=(first,), file_format=file_format)),
        Stage(name="grow", program=partial(write, plans=(first, second), file_format=file_format)),
        Stage(name="feature", program=partial(write, plans=late, file_format=file_format)),
        Stage(
            name="heal",
            program=partial(write, plans=late, file_format=file_format, doubled=True),
            before=partial(damage, lost=lost),
        ),
        Stage(name="reopen", program=partial(reopen, plans=late, file_format=file_format), before=lose),
        Stage(name="gc", program=sweep, before=litter),
    ]


def short_stages(file_format: str) -> list[Stage]:
    """The same with one shard a generation and fewer features."""
    lost = paths.data(file_format, 0, "map", 0, record_ndim=2)
    one = StorePlan(records=ONE, num_videos=2, rows_per_video=(1,), failing={1: "timeout"})
    two = replace(one, first_video=2, failing={})
    late = [replace(plan, records={**ONE, "late": make_record((3,), "float32")}) for plan in (one, two)]
    return [
        Stage(name="create", program=partial(write, plans=(one,), file_format=file_format)),
        Stage(name="grow", program=partial(write, plans=(one, two), file_format=file_format)),
        Stage(
            name="heal",
            program=partial(write, plans=(one, two), file_format=file_format, doubled=True),
            before=partial(damage, lost=lost),
        ),
        Stage(name="feature", program=partial(write, plans=late, file_format=file_format)),
        Stage(name="reopen", program=partial(reopen, plans=late, file_format=file_format), before=lose),
        Stage(name="gc", program=sweep, before=litter),
    ]
