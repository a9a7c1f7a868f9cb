"""``merge`` and ``convert``: copies of what stores hold into a new store, bit for bit, without decoding a video."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.config import to_yaml
from featcache.data.types import VideoOutcome
from featcache.errors import ConfigError, DiskSpaceError, StoreError
from featcache.files.base import open_files
from featcache.files.places import room_for_store
from featcache.stages import OnStage, ignore
from featcache.store import paths
from featcache.store.completion import reopen_lost
from featcache.store.copied import Copied, CopyPlan
from featcache.store.copy_plan import PlannedCopy, plan_copy
from featcache.store.documents import is_store
from featcache.store.features import Features
from featcache.store.generation import Generation
from featcache.store.paths import FileFormat
from featcache.store.plan import Segment
from featcache.store.precision import Scale, staging_dtype, stored_dtype
from featcache.store.present import Entry, Present, read_present
from featcache.store.reader import Store, open_store
from featcache.store.rows import RowTable
from featcache.store.settings import ConvertSettings, MergeSettings
from featcache.store.writer import StoreWriter
from featcache.units import readable_bytes

ELSEWHERE = "its rows of this feature are in another generation"


def merge(settings: MergeSettings, *, on_stage: OnStage = ignore) -> Copied:
    """Copy what one store or several hold into a new store of as few generations as possible.

    Args:
        settings: The stores and the place of the new one, whose format is that of the first.
        on_stage: Called with (``"copy"``, rows copied, rows in total) and the name of the array.

    Raises:
        FeatcacheError: The stores do not fit together, or one is damaged; in one sentence. Committed shards are kept,
            and the same call goes on.
    """
    return _merging(settings).run(settings, on_stage=on_stage)


def convert(settings: ConvertSettings, *, on_stage: OnStage = ignore) -> Copied:
    """Copy what a store holds into a new store of the other file format; otherwise like :func:`merge`."""
    return _converting(settings).run(settings, on_stage=on_stage)


def plan_merge(settings: MergeSettings, *, on_stage: OnStage = ignore) -> CopyPlan:
    """What :func:`merge` would copy; nothing is written."""
    return _merging(settings).plan


def plan_convert(settings: ConvertSettings, *, on_stage: OnStage = ignore) -> CopyPlan:
    """What :func:`convert` would copy; nothing is written."""
    return _converting(settings).plan


def _merging(settings: MergeSettings) -> "_Copy":
    stores = _open(settings.stores, out=settings.out)
    return _Copy(stores, out=settings.out, file_format=stores[0].file_format, features=settings.features)


def _converting(settings: ConvertSettings) -> "_Copy":
    stores = _open((settings.store,), out=settings.out)
    if stores[0].file_format == settings.to:
        raise ConfigError(f"{settings.store} holds {settings.to} files already; `featcache merge` copies it as it is")
    return _Copy(stores, out=settings.out, file_format=settings.to, features=settings.features)


def _open(places: Sequence[str], *, out: str) -> list[Store]:
    """Open stores that lie apart from each other and from the new one."""
    target = Path(out).resolve()
    known: dict[Path, str] = {}
    for place in places:
        path = Path(place).resolve()
        if path in known:
            raise ConfigError(f"{place} and {known[path]} are the same store; name each once")
        if target.is_relative_to(path) or path.is_relative_to(target):
            raise ConfigError(f"the new store {out} and {place} lie in each other; choose another folder for --out")
        known[path] = place
    return [open_store(place) for place in places]


class _Copy:
    """One copy: what is present, where it goes, and how far it is."""

    def __init__(
        self, stores: Sequence[Store], *, out: str, file_format: FileFormat, features: Sequence[str] | None
    ) -> None:
        self.stores = stores
        self.out = out
        self.file_format = file_format
        self.present = read_present(stores, features=features)
        self.planned = plan_copy(self.present)
        begun = _bytes_begun(stores, out, self.planned)
        rows = sum(one.num_rows for one in self.planned)
        num_bytes = rows * sum(document.record.num_bytes for document in self.present.features.values())
        self.plan = CopyPlan(
            stores=tuple(str(store.path) for store in stores),
            out=out,
            file_format=file_format,
            features=tuple(self.present.features),
            videos=len({entry.shown.id for entry in self.present.entries if not entry.removed}),
            removed=sum(entry.removed for entry in self.present.entries),
            rows=rows,
            generations_before=sum(len(store.generations) for store in stores),
            generations=len(self.planned),
            shards=sum(one.num_shards for one in self.planned),
            num_bytes=num_bytes,
            free_bytes=room_for_store(out),
        )
        free = self.plan.free_bytes
        if free is not None and num_bytes - begun > free:
            raise DiskSpaceError(
                f"the copy needs {readable_bytes(num_bytes - begun)} and {readable_bytes(free)} are "
                f"free in {out!r}; choose another disk, or fewer arrays with --feature"
            )

    def run(self, settings: MergeSettings | ConvertSettings, *, on_stage: OnStage) -> Copied:
        """Write what the new store lacks."""
        reopen_lost(self.out)
        with StoreWriter.open(self.out, sampling=self.stores[0].sampling, file_format=self.file_format) as writer:
            for document in self.present.features.values():
                writer.declare_feature(document.name, document.recipe, document.record)
            config = self._keep_configs(writer, settings)
            with writer.planning_lock():
                _publish_plans(writer, self.planned)
            copier = _Copier(writer, self.present, self.planned)
            rows_written = copier.run(on_stage)
            lacking = [
                writer.complete(generation, name)
                for generation, _ in copier.generations
                for name in self.present.features
            ]
        return Copied(plan=self.plan, rows_written=rows_written, shards_elsewhere=sum(map(len, lacking)), config=config)

    def _keep_configs(self, writer: StoreWriter, settings: MergeSettings | ConvertSettings) -> str:
        """Keep the settings of the commands that filled the stores, which say where videos are, and those of this."""
        for store in self.stores:
            files = open_files(store.path)
            for name in files.names(paths.CONFIG):
                if name.endswith(".yaml"):
                    writer.keep_config(name, files.read(f"{paths.CONFIG}/{name}", what="saved settings"))
        data = to_yaml(settings).encode()
        return writer.keep_config(f"{settings.command}-{hashlib.sha256(data).hexdigest()[:12]}.yaml", data)


def _bytes_begun(stores: Sequence[Store], out: str, planned: Sequence[PlannedCopy]) -> int:
    """Bytes that an interrupted copy has written already.

    Raises:
        StoreError: There is another store, or a copy of another state of these stores.
    """
    if not is_store(out):
        return 0
    begun = open_store(out)
    overlays = [(one.generations, one.amendments) for one in begun.overlays]
    said = [(number + 1, one.amendments) for number, one in enumerate(planned) if one.amendments]
    are_alike = all(
        mine.videos == one.videos
        and (mine.segments, mine.shard_rows) == (one.segments, one.shard_rows)
        and (mine.encode_batch, mine.threads) == (one.encode_batch, one.threads)
        for mine, one in zip(begun.generations, planned, strict=False)
    )
    if not are_alike or any(mine != one for mine, one in zip(overlays, said, strict=False)):
        names = " and ".join(str(store.path) for store in stores)
        raise StoreError(
            f"{out} is a store already, and not a copy of what {names} holds now; choose another folder for --out, or "
            "remove it if the copy began before the store changed"
        )
    files = open_files(out)
    return sum(num_bytes or 0 for _, num_bytes in files.walk())


def _publish_plans(writer: StoreWriter, planned: Sequence[PlannedCopy]) -> None:
    """Publish the generations and overlays that the new store lacks; the caller holds the planning lock."""
    opened = open_store(writer.root)
    num_overlays = 0
    for number, one in enumerate(planned):
        if number >= len(opened.generations):
            writer.add_generation(
                one.videos,
                one.segments,
                one.num_shards,
                shard_rows=one.shard_rows,
                encode_batch=one.encode_batch,
                threads=one.threads,
            )
        if one.amendments:
            num_overlays += 1
            if num_overlays > len(opened.overlays):
                writer.add_overlay(one.amendments)


class _Copier:
    """Fills the shards of a new store."""

    def __init__(self, writer: StoreWriter, present: Present, planned: Sequence[PlannedCopy]) -> None:
        self.writer = writer
        self.present = present
        self.generations = list(zip(writer.generations(), planned, strict=False))
        self.features: list[dict[str, Features]] = [
            {name: source.store.feature(name, all_views=True) for name in present.features}
            for source in present.sources
        ]
        self.last = {entry.shown.id: entry.place for one in planned for entry in one.entries}
        self.with_rows = {(name, entry.shown.id) for one in planned for entry in one.entries for name in entry.features}

    def run(self, on_stage: OnStage) -> int:
        """Fill all shards that lack a feature; returns the number of rows written."""
        done = {
            (generation.number, name): self.writer.committed(generation, name)
            for generation, _ in self.generations
            for name in self.present.features
        }
        work = [
            (generation, one, shard, name)
            for generation, one in self.generations
            for shard in range(generation.num_shards)
            for name in self.present.features
            if shard not in done[generation.number, name]
        ]
        total = sum(generation.planned_rows(shard) for generation, _, shard, _ in work)
        num_done = num_written = 0
        on_stage("copy", 0, total)
        for generation, one, shard, name in work:
            num_rows = generation.planned_rows(shard)
            with self.writer.shard_lock(generation, shard) as claimed:
                if claimed and not self.writer.is_committed(generation, shard, feature=name):
                    self.fill(generation, one, shard, name)
                    num_written += num_rows
            num_done += num_rows
            on_stage("copy", num_done, total, name)
        return num_written

    def fill(self, generation: Generation, planned: PlannedCopy, shard: int, name: str) -> None:
        """Read and commit one feature of one shard."""
        record = self.present.features[name].record
        segments = generation.shard_segments(shard)
        outcomes = [self._outcome(planned.entries[one.video], one, name) for one in segments]
        kept = [one for one, outcome in zip(segments, outcomes, strict=True) if outcome.status == "ok"]
        is_stored = bool(kept)  # otherwise there is neither a row nor a scale
        dtype = stored_dtype(record.dtype) if is_stored else staging_dtype(record.dtype)
        array = np.zeros((generation.shard_rows, *record.shape), dtype)
        present = np.zeros(generation.shard_rows, bool)
        tables: list[RowTable] = []
        made: list[dict[str, Any]] = []
        scales: dict[str, Scale] = {}
        for source, run in groupby(kept, key=lambda one: planned.entries[one.video].place.source):
            part = list(run)
            features = self.features[source][name]
            rows = np.concatenate([_rows(features, planned.entries[one.video], one) for one in part])
            places = np.concatenate([np.arange(one.first_row, one.first_row + one.num_rows) for one in part])
            array[places] = features.gather(rows)
            present[places] = True
            tables.append(_moved(features.details(rows), part, places))
            made += [one for one in features.provenance(rows) if one not in made]
            if record.dtype == "int8":
                scales[name] = features.scales(rows[:1])[0]
        self.writer.commit_shard(
            generation,
            shard,
            features={name: array},
            present=present,
            rows=RowTable.concatenate(tables) if tables else RowTable.empty(num_frames=self.writer.sampling.num_frames),
            outcomes=outcomes,
            provenance=made[0] if len(made) == 1 else {"copied": made},
            scales=scales,
        )

    def _outcome(self, entry: Entry, segment: Segment, name: str) -> VideoOutcome:
        found = VideoOutcome(
            id=entry.planned.id, status="ok", reason="", first_row=segment.first_row, num_rows=segment.num_rows
        )
        video = entry.shown.id
        if name in entry.features:
            return found
        if (name, video) in self.with_rows or self.last[video] != entry.place:
            return replace(found, status="missing", reason=ELSEWHERE)
        lost = self.present.loss(video, name)
        return replace(found, status=lost.status, reason=lost.reason, tries=lost.tries)


def _rows(features: Features, entry: Entry, segment: Segment) -> npt.NDArray[np.int64]:
    """The rows to copy to a segment."""
    rows = features.rows_of(entry.shown.id)
    assert len(rows) == entry.num_rows, f"{entry.shown.id!r} has {len(rows)} rows, its plan {entry.num_rows}"
    return rows[segment.first_clip : segment.first_clip + segment.num_rows]


def _moved(table: RowTable, segments: Sequence[Segment], places: npt.NDArray[np.int64]) -> RowTable:
    """The details of rows at their places in another shard."""
    videos = np.repeat([one.video for one in segments], [one.num_rows for one in segments])
    return replace(table, video=videos.astype(np.int32), row=places.astype(np.int32))
