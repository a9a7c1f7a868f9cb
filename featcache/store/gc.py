"""Removes the left-overs of killed writers; needs exclusive access to the store."""

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featcache.files.base import Files, open_files
from featcache.files.publish import is_temp
from featcache.store import paths
from featcache.store.completion import read_records
from featcache.store.documents import read_features, read_root
from featcache.store.generation import data_name, read_generations
from featcache.store.overlay import overlay_numbers, overlay_table
from featcache.store.whole import is_whole, notes_of_doubt
from featcache.summary import Summary
from featcache.units import readable_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """Result of :func:`gc`.

    Attributes:
        removed: Removed files, relative to the store.
        num_bytes: Number of bytes freed.
    """

    removed: tuple[str, ...]
    num_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    def summary(self) -> Summary:
        """What to show of it."""
        return Summary(lines=(f"removed {len(self.removed)} files, {readable_bytes(self.num_bytes)}",))


def gc(path: Path | str, *, wait_seconds: float = 0.0, alone: bool = False) -> Collected:
    """Remove temporary files, lock files, and files in generations that no commit record refers to.

    Files that featcache does not write are kept.

    Args:
        path: Folder of the store.
        wait_seconds: How long to wait for writers to end.
        alone: The caller knows that no process on any host writes to the store, and no lock has to show it; needed
            where the disk has no locks.

    Raises:
        StoreError: Writers are active, or may be on a disk without locks, or there is no store.
        CorruptStoreError: A record or plan is damaged or lost; since its files are unknown, nothing is removed.
    """
    files = open_files(path)
    read_root(files)
    held = nullcontext() if alone else files.lock(paths.STORE_LOCK, exclusive=True, wait_seconds=wait_seconds)
    with held:
        referred = _referred(files)
        features = read_features(files)
        garbage = {
            name: num_bytes or 0
            for name, num_bytes in files.walk()
            if name not in referred and _is_written_here(name, features)
        }
        for name in garbage:
            files.remove(name)
    return Collected(removed=tuple(sorted(garbage)), num_bytes=sum(garbage.values()))


def _referred(files: Files) -> set[str]:
    """Every file that a plan, a commit record or an overlay names."""
    document = read_root(files)
    features = read_features(files)
    referred = {overlay_table(files, number) for number in overlay_numbers(files)}
    for generation in read_generations(files, document.sampling):
        number, plan = generation.number, generation.plan
        referred.add(paths.table(number, "videos", plan.videos.sha256))
        referred.add(paths.table(number, "segments", plan.segments.sha256))
        for feature in features.values():
            for shard, record in read_records(generation, feature).items():  # files of a lost record are not garbage
                referred.add(paths.rows(number, shard, record.rows.sha256))
                referred.add(data_name(generation, feature, shard, document.file_format))
                referred.add(paths.scale_chunk(number, feature.name, shard))
                if not is_whole(generation, feature, record, document.file_format):  # the next writer has to know
                    referred |= notes_of_doubt(generation, feature.name, shard)
    return referred


def _is_written_here(name: str, features: Collection[str]) -> bool:
    """Whether writers make files of this name that mean nothing unless a document names them."""
    match name.split("/"):
        case [*_, last] if is_temp(last):
            return True
        case ["locks", _]:
            return name not in {paths.STORE_LOCK, paths.DISK}
        case ["locks", "doubts", *_]:
            return True
        case [paths.OVERLAYS, last]:
            return last.endswith(".parquet")
        case [folder, *rest] if paths.generation_number(folder) is not None:
            return _is_part_of_a_generation(rest, features)
    return False


def _is_part_of_a_generation(parts: list[str], features: Collection[str]) -> bool:
    match parts:
        case [last]:
            return last.startswith(("videos-", "segments-")) and last.endswith(".parquet")
        case ["rows", last]:
            return last.endswith(".parquet")
        case [array, last] if array in features:
            return last.endswith(".h5")
        case [array, "c", *_, "0"]:
            return array.removesuffix(".scale") in features
    return False
