"""``import``: arrays from elsewhere into a store, under a recipe that says what is declared and what is unknown."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from featcache.config import to_yaml
from featcache.data.types import Status, VideoOutcome, VideoRecord
from featcache.errors import ExchangeError
from featcache.exchange.arrays import check_counts, check_ids, choose_record, output_of
from featcache.exchange.listing import VIDEOS, read_listing
from featcache.exchange.outgoing import Step
from featcache.exchange.sample import Sample, row_columns, video_record
from featcache.exchange.settings import ImportSettings
from featcache.recipes import FeatureRecipe, RecordSpec
from featcache.stages import OnStage, ignore
from featcache.store.completion import reopen_lost
from featcache.store.generation import Generation
from featcache.store.plan import Segment, default_shard_rows, plan_segments
from featcache.store.precision import staging_dtype, to_storage
from featcache.store.reader import open_store
from featcache.store.rows import RowTable
from featcache.store.writer import StoreWriter
from featcache.summary import Summary, failures_table

log = logging.getLogger(__name__)

_READERS = {"npy": "npy", "webdataset": "tar", "hf": "tables", "parquet": "tables"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """Result of an import, and the state of the feature in the store.

    Attributes:
        store: Folder of the store.
        feature: Name of the array.
        config: The YAML file that repeats the command.
        videos_total: Number of videos of the store.
        videos_ok: Number of videos with rows.
        videos_failed: Number of videos without rows.
        failures: (video, status, reason) of each failed video.
        rows_total: Number of rows of the feature.
        rows_written: Number of rows that this call wrote.
        not_listed: Number of arrays of the source that its listing does not name; they were left out.
        dtype: Stored dtype.
        unknown: Fields of the recipe whose values are unknown.
    """

    store: str
    feature: str
    config: str
    videos_total: int
    videos_ok: int
    videos_failed: int
    failures: tuple[tuple[str, str, str], ...]
    rows_total: int
    rows_written: int
    not_listed: int
    dtype: str
    unknown: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    def summary(self) -> Summary:
        """What to show of it."""
        left_out = f"{self.not_listed} arrays of the source are not in the listing and were left out"
        return Summary(
            tables=failures_table(self.failures),
            facts={
                "store": self.store,
                "feature": f"{self.feature} ({self.dtype})",
                "videos": f"{self.videos_ok} ok, {self.videos_failed} failed, {self.videos_total} in all",
                "rows": f"{self.rows_written} written now, {self.rows_total} in all",
                "not known": ", ".join(self.unknown) or "nothing",
                "settings": self.config,
            },
            warnings=(left_out,) if self.not_listed else (),
        )


def import_features(settings: ImportSettings, *, on_stage: OnStage = ignore) -> Imported:
    """Store the arrays of a source; the same call resumes, and adds videos or another array to the store.

    A file that cannot be read is a failed video (``undecodable``), an empty array is ``too_short``, and a video that a
    listing names but the source lacks is ``missing``. An array that can be read but does not fit (other shape or dtype,
    NaN, infinity, overflow) stops the import.

    Args:
        settings: What to import, and what is known about it.
        on_stage: Called with (``"import"``, rows written, rows in total).

    Raises:
        ExchangeError: A source or array does not fit; names it.
        NonFiniteFeatureError: Values are not finite or overflow; names the file.
        RecipeMismatchError: The store was made with another recipe.
        ManifestError: An id is unusable or occurs twice.
    """
    samples: list[Sample] = import_module(f"featcache.exchange.{_READERS[settings.format]}").read(settings)
    check_ids(samples)
    samples, not_listed = _listed(samples, settings)
    record = choose_record(samples, settings.feature)
    recipe = settings.feature.recipe(precision=record.dtype, output=output_of(settings.feature, record))
    name = settings.feature.name or _slug(f"{recipe.backbone}-{recipe.layer}-{recipe.output}")
    videos = [video_record(sample) for sample in samples]
    check_counts(samples, videos, settings.sampling)
    reopen_lost(settings.out)
    with StoreWriter.open(settings.out, sampling=settings.sampling, file_format=settings.file_format) as writer:
        writer.declare_feature(name, recipe, record)
        data = to_yaml(settings).encode()
        config = writer.keep_config(f"import-{hashlib.sha256(data).hexdigest()[:12]}.yaml", data)
        by_id = {sample.id: sample for sample in samples}
        with writer.planning_lock():
            _check_aligned(writer, by_id)
            _add_generation(writer, videos, by_id, record=record, settings=settings)
        importer = _Importer(writer, by_id, name=name, recipe=recipe, record=record, settings=settings)
        rows_written = importer.run(lambda done, total: on_stage("import", done, total))
        for generation in writer.generations():
            writer.complete(generation, name)
    store = open_store(settings.out)
    coverage = store.coverage(name)
    return Imported(
        store=settings.out,
        feature=name,
        config=str(config),
        videos_total=coverage.total,
        videos_ok=coverage.ok,
        videos_failed=coverage.failed,
        failures=tuple((failure.id, failure.status, failure.reason) for failure in coverage.failures),
        rows_total=store.num_rows(name),
        rows_written=rows_written,
        not_listed=not_listed,
        dtype=record.dtype,
        unknown=tuple(settings.feature.unknown_fields()),
    )


def _listed(samples: Sequence[Sample], settings: ImportSettings) -> tuple[list[Sample], int]:
    """The samples that the listing names, in its order and with its facts, and the number that it does not name."""
    source = Path(settings.source)
    default = (source if source.is_dir() else source.parent) / VIDEOS
    path = Path(settings.listing) if settings.listing is not None else default if default.is_file() else None
    if path is None:
        folders = {sample.id: {"label": label} for sample in samples if (label := _folder_label(sample))}
        return [replace(sample, facts={**sample.facts, **folders.get(sample.id, {})}) for sample in samples], 0
    listed = read_listing(path)
    by_id = {sample.id: sample for sample in samples}
    chosen = []
    for video_id, facts in listed.items():
        sample = by_id.get(video_id) or Sample(id=video_id, where=f"{path}, id {video_id!r}")
        labels = {**(sample.facts.get("labels") or {}), **facts["labels"]}
        chosen.append(replace(sample, facts={**sample.facts, **facts, "labels": labels}))
    if not any(sample.num_rows for sample in chosen):
        known = ", ".join(map(repr, list(by_id)[:3]))
        raise ExchangeError(f"no array of {source} is named in {path}; its ids look like {known}")
    return chosen, len(set(by_id) - set(listed))


def _folder_label(sample: Sample) -> str:
    has_own = "labels" in sample.facts or "label" in sample.facts
    return "" if has_own else str(sample.facts.get("folder", ""))


def _check_aligned(writer: StoreWriter, samples: Mapping[str, Sample]) -> None:
    """Check that an array for a planned video has as many rows as its plan, since rows of all features align."""
    opened = open_store(writer.root)
    for generation, names in zip(opened.generations, opened.shown_ids, strict=True):
        planned: dict[int, int] = {}
        for segment in generation.segments:
            planned[segment.video] = planned.get(segment.video, 0) + segment.num_rows
        for number, num_rows in planned.items():
            sample = samples.get(names[number] or "")
            if sample is None or is_other_content(video_record(sample).content_hash, generation.content_hashes[number]):
                continue
            if sample.num_rows not in (0, num_rows):
                raise ExchangeError(
                    f"{sample.where} has {sample.num_rows} rows, and {writer.root} has {num_rows} of video "
                    f"{sample.id!r}; features of one store align row for row, import into a store of its own"
                )


def _add_generation(
    writer: StoreWriter,
    videos: Sequence[VideoRecord],
    samples: Mapping[str, Sample],
    *,
    record: RecordSpec,
    settings: ImportSettings,
) -> None:
    """Plan the videos that the store lacks, those whose file was replaced, and those that failed and now have rows."""
    opened = open_store(writer.root)
    stored = opened.videos
    if out := [video.id for video in videos if video.id in opened.removed_videos]:
        log.warning(
            "%d videos were removed from the store and stay out, %r among them; `featcache remove` with --undo takes "
            "them in again",
            len(out), out[0],
        )  # fmt: skip
    added = [
        video
        for video in videos
        if (video.id not in stored and video.id not in opened.removed_videos)
        or (video.id in stored and is_other_content(video.content_hash, stored[video.id].content_hash))
        or (video.id in stored and video.status == "ok" and stored[video.id].status != "ok")
    ]
    if not added:
        return
    rows = [samples[video.id].num_rows if video.status == "ok" else 0 for video in added]
    typical = int(median([count for count in rows if count] or [1]))
    shard_rows = settings.shard_rows or default_shard_rows([record.num_bytes], typical)
    segments, num_shards = plan_segments(rows, shard_rows=shard_rows)
    writer.add_generation(
        added,
        segments,
        num_shards,
        shard_rows=shard_rows,
        encode_batch=settings.encode_batch,
        threads=settings.threads,
    )


class _Importer:
    """Fills the shards that lack the feature."""

    def __init__(
        self,
        writer: StoreWriter,
        samples: Mapping[str, Sample],
        *,
        name: str,
        recipe: FeatureRecipe,
        record: RecordSpec,
        settings: ImportSettings,
    ) -> None:
        self.writer = writer
        self.samples = samples
        self.name = name
        self.record = record
        self.settings = settings
        self.names: list[list[str | None]] = []
        self.provenance = {
            "featcache": version("featcache"),
            "imported": settings.format,
            "unknown": settings.feature.unknown_fields(),
        }

    def run(self, on_progress: Step) -> int:
        """Fill all shards; returns the number of rows written."""
        opened = open_store(self.writer.root)
        self.names = opened.shown_ids
        work = [
            (generation, shard)
            for generation in opened.generations
            for shard in sorted(set(range(generation.num_shards)) - self.writer.committed(generation, self.name))
        ]
        total = sum(generation.planned_rows(shard) for generation, shard in work)
        done = 0
        on_progress(0, total)
        for generation, shard in work:
            with self.writer.shard_lock(generation, shard) as claimed:
                if claimed and not self.writer.is_committed(generation, shard, feature=self.name):
                    self.fill(generation, shard)
            done += generation.planned_rows(shard)
            on_progress(done, total)
        return done

    def fill(self, generation: Generation, shard: int) -> None:
        """Read and commit one shard."""
        segments = generation.shard_segments(shard)
        array = np.zeros((generation.shard_rows, *self.record.shape), staging_dtype(self.record.dtype))
        present = np.zeros(generation.shard_rows, bool)
        tables: list[RowTable] = []
        outcomes: list[VideoOutcome] = []
        for segment in segments:
            sample = self.samples.get(self.names[generation.number][segment.video] or "")
            status, reason = _outcome(sample, planned_content=generation.content_hashes[segment.video])
            if status == "ok":
                assert sample is not None, "an ok outcome has a sample"
                where = slice(segment.first_row, segment.first_row + segment.num_rows)
                array[where] = self._values(sample, segment)
                present[where] = True
                tables.append(self._rows(sample, segment))
            outcomes.append(
                VideoOutcome(
                    id=generation.video_ids[segment.video],
                    status=status,
                    reason=reason,
                    first_row=segment.first_row,
                    num_rows=segment.num_rows,
                )
            )
        num_frames = self.settings.sampling.num_frames
        self.writer.commit_shard(
            generation,
            shard,
            features={self.name: array},
            present=present,
            rows=RowTable.concatenate(tables) if tables else RowTable.empty(num_frames=num_frames),
            outcomes=outcomes,
            provenance=self.provenance,
        )

    def _values(self, sample: Sample, segment: Segment) -> Any:
        assert sample.read is not None, "a sample with rows can be read"
        values = sample.read(segment.first_clip, segment.first_clip + segment.num_rows)
        return to_storage(values, self.record.dtype, where=f"{self.name!r} in {sample.where}")

    def _rows(self, sample: Sample, segment: Segment) -> RowTable:
        columns = row_columns(sample, self.settings.timing, num_frames=self.settings.sampling.num_frames)
        part = slice(segment.first_clip, segment.first_clip + segment.num_rows)
        counts = np.arange(segment.num_rows, dtype=np.int32)
        return RowTable(
            video=np.full(segment.num_rows, segment.video, np.int32),
            row=counts + np.int32(segment.first_row),
            clip=counts + np.int32(segment.first_clip),
            **{name: column[part] for name, column in columns.items()},
        )


def _outcome(sample: Sample | None, *, planned_content: str) -> tuple[Status, str]:
    """Outcome of a planned video: failed if this source has no array for it, or an array of another file."""
    if sample is None:
        return "missing", "the import of this feature has no array for it"
    video = video_record(sample)
    if is_other_content(video.content_hash, planned_content):
        return "changed", "the array that is imported was computed from another file of this name"
    return video.status, video.reason


def is_other_content(first: str, second: str) -> bool:
    """Whether two content hashes belong to different files; an unknown (empty) hash differs from none."""
    return bool(first and second) and first != second


def _slug(text: str) -> str:
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in text)
