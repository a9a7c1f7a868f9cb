"""Removes the left-overs of killed writers; needs exclusive access to the store."""

from dataclasses import dataclass
from pathlib import Path

from featcache.files import publish
from featcache.files.locks import lock
from featcache.files.places import safe_join
from featcache.store import paths
from featcache.store.completion import read_records
from featcache.store.generation import (
    data_path,
    read_features,
    read_generations,
    read_root,
)
from featcache.store.overlay import overlay_numbers, overlay_table_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """Result of :func:`gc`.

    Attributes:
        removed: Removed files, relative to the store.
        num_bytes: Number of bytes freed.
    """

    removed: tuple[str, ...]
    num_bytes: int


def gc(path: Path | str, *, wait_seconds: float = 0.0) -> Collected:
    """Remove temporary files, lock files, and files in generations that no commit record refers to.

    Files that featcache does not write are kept.

    Args:
        path: Folder of the store.
        wait_seconds: How long to wait for writers to end.

    Raises:
        StoreError: Writers are active, or there is no store.
        CorruptStoreError: A record or plan is damaged or lost; since its files are unknown, nothing is removed.
    """
    root = Path(path)
    read_root(root)
    with lock(safe_join(root, paths.STORE_LOCK), exclusive=True, wait_seconds=wait_seconds):
        garbage = _garbage(root)
        num_bytes = sum(file.lstat().st_size for file in garbage)
        for file in garbage:
            if file.parent != root:
                safe_join(root, file.parent.relative_to(root).as_posix())  # a left-over that is a link may be removed
            publish.remove(file)
    return Collected(removed=tuple(file.relative_to(root).as_posix() for file in garbage), num_bytes=num_bytes)


def _garbage(root: Path) -> list[Path]:
    document = read_root(root)
    features = read_features(root)
    generations = read_generations(root, document.sampling)
    referred: set[Path] = set()
    candidates = [file for file in root.rglob("*") if publish.is_temp(file.name) and not file.is_dir()]
    candidates += [file for file in root.glob("locks/*") if file != root / paths.STORE_LOCK]
    for generation in generations:
        number, plan = generation.number, generation.plan
        referred.add(root / paths.table(number, "videos", plan.videos.sha256))
        referred.add(root / paths.table(number, "segments", plan.segments.sha256))
        for feature in features.values():
            for shard, record in read_records(generation, feature).items():  # files of a lost record are not garbage
                referred.add(root / paths.rows(number, shard, record.rows.sha256))
                referred.add(data_path(generation, feature, shard, document.file_format))
                referred.add(root / paths.scale_chunk(number, feature.name, shard))
    referred.update(overlay_table_path(root, number) for number in overlay_numbers(root))
    candidates += root.glob(f"{paths.OVERLAYS}/*.parquet")
    for number in {n for file in root.iterdir() if (n := paths.generation_number(file.name)) is not None}:
        folder = root / paths.generation(number)
        candidates += [
            *folder.glob("videos-*.parquet"),
            *folder.glob("segments-*.parquet"),
            *folder.glob("rows/*.parquet"),
        ]
        for name in features:
            array = root / paths.array(number, name)
            candidates += [*array.glob("*.h5"), *(file for file in array.glob("c/**/0") if not file.is_dir())]
            candidates += list((root / paths.scale_array(number, name)).glob("c/*/0"))
    return sorted({file for file in candidates if file not in referred})
