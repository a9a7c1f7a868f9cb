"""Writes a store: creates or opens it, declares features, adds generations, commits shards."""

import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from featcache.data.manifest import Manifest, videos_to_table
from featcache.data.types import VideoOutcome, VideoRecord
from featcache.errors import CorruptStoreError, RecipeMismatchError, unknown_name
from featcache.files.base import Files, open_files, store_place
from featcache.files.sealed import seal, sha256_bytes
from featcache.recipes import FeatureRecipe, RecordSpec, SamplingRecipe, first_difference, recipe_hash
from featcache.store import paths, zarr_format
from featcache.store.commit import commit_feature
from featcache.store.completion import publish_complete
from featcache.store.documents import read_feature, read_features, read_root, refuse_foreign
from featcache.store.generation import (
    Generation,
    ranges,
    read_generation,
    read_generations,
    read_record,
    recorded_shards,
    segments_table,
)
from featcache.store.overlay import Amendment, publish_overlay
from featcache.store.paths import FileFormat
from featcache.store.plan import MAX_BLOCK_BYTES, Segment
from featcache.store.precision import Scale
from featcache.store.rows import RowTable, rows_to_bytes, table_bytes
from featcache.store.schema import CommitDoc, FeatureDoc, PlanDoc, PlannedDoc, RootDoc, TableRef
from featcache.store.whole import is_whole

__all__ = ["Generation", "StoreWriter"]

log = logging.getLogger(__name__)


class StoreWriter:
    """One of any number of writers of a store. A context manager; open one per process.

    Attributes:
        root: Folder of the store, or its URL in a bucket.
        sampling: The store's sampling recipe.
        file_format: ``zarr`` or ``hdf5``.
    """

    def __init__(self, root: Path | str, files: Files, document: RootDoc, held: ExitStack) -> None:
        self.root = root
        self._files = files
        self.sampling = document.sampling
        self.file_format = document.file_format
        self._held = held
        self._declared: dict[str, FeatureDoc] = {}
        self._with_metadata: set[tuple[int, str]] = set()  # arrays whose metadata this writer has published

    def __repr__(self) -> str:
        return f"StoreWriter({str(self.root)!r}, file_format={self.file_format!r})"

    @classmethod
    def open(cls, path: Path | str, *, sampling: SamplingRecipe, file_format: FileFormat = "zarr") -> Self:
        """Open the store at ``path``, or create it if there is none.

        Raises:
            RecipeMismatchError: The store has another sampling recipe or file format; names the field.
            StoreError: The folder holds something else, or a store of a newer format.
            CorruptStoreError: The description is damaged.
            ConfigError: The path is a URL.
        """
        root, files = store_place(path), open_files(path)
        wanted = RootDoc(sampling=sampling, file_format=file_format)
        if not files.exists(paths.ROOT):
            refuse_foreign(files, file_format=file_format)
            if file_format == "zarr":
                files.put_new(paths.GROUP, zarr_format.group_metadata())
            files.put_new(paths.ROOT, seal(wanted.to_json()))
        found = read_root(files)
        if difference := first_difference(found.sampling, sampling):
            raise RecipeMismatchError(
                f"{root} was made with another sampling recipe: {difference}; "
                "use the store's settings or choose another folder"
            )
        if found.file_format != file_format:
            raise RecipeMismatchError(
                f"{root} holds {found.file_format} files, not {file_format}; use that format or choose another folder"
            )
        with ExitStack() as stack:
            stack.enter_context(files.lock(paths.STORE_LOCK, exclusive=False, wait_seconds=60))
            if file_format == "zarr":  # restores a lost one
                files.put_new(paths.GROUP, zarr_format.group_metadata())
            writer = cls(root, files, found, stack)
            for generation in writer.generations():  # a killed writer may have left its plan without the note
                writer._note_planned(generation)
            writer._held = stack.pop_all()
            return writer

    def close(self) -> None:
        """Release the store's shared lock."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def features(self) -> dict[str, tuple[FeatureRecipe, RecordSpec]]:
        """Declared features: name to recipe and record."""
        return {name: (doc.recipe, doc.record) for name, doc in read_features(self._files).items()}

    def declare_feature(self, name: str, recipe: FeatureRecipe, record: RecordSpec) -> None:
        """Add an array to the store, or check that it is the one declared under that name.

        Raises:
            RecipeMismatchError: It was declared with another recipe or record; names the field.
            ConfigError: The name cannot be the name of a folder.
        """
        paths.check_feature_name(name)
        assert recipe.precision == record.dtype, f"record of {name} is {record.dtype}, its recipe {recipe.precision}"
        wanted = FeatureDoc(name=name, recipe=recipe, record=record)
        if self._files.put_new(paths.feature(name), seal(wanted.to_json())):
            return
        found = read_feature(self._files, name)
        difference = first_difference(found.recipe, recipe)
        if difference is None and found.record != record:
            difference = f"record ({found.record} against {record})"
        if difference:
            raise RecipeMismatchError(
                f"feature {name!r} of {self.root} was made with another recipe: {difference}; "
                "use the same settings, or give the new feature another name"
            )

    def generations(self) -> list[Generation]:
        """All generations in order, each synced, since the process that published the last may have died on the way."""
        found = read_generations(self._files, self.sampling)
        for generation in found:
            self._files.settle(paths.generation(generation.number))
        return found

    def planning_lock(self) -> AbstractContextManager[None]:
        """Hold the lock for finding the videos that the store lacks and adding a generation for them.

        Two processes that start at the same time then plan one generation, not two with the same videos.
        """
        return self._files.lock(paths.PLANNING_LOCK, exclusive=True)

    def add_generation(
        self,
        videos: Sequence[VideoRecord],
        segments: Sequence[Segment],
        num_shards: int,
        *,
        shard_rows: int,
        encode_batch: int,
        threads: int,
    ) -> Generation:
        """Publish a plan under the next free number.

        Args:
            videos: The videos of the generation, usable or not; ids are unique.
            segments: Rows of the usable videos, from :func:`featcache.store.plan.plan_segments`.
            num_shards: Number of shards that the segments fill.
            shard_rows: Largest number of rows per shard.
            encode_batch: Number of rows per forward pass.
            threads: Number of intra-op threads of the forward pass.
        """
        Manifest(root="", videos=tuple(videos))  # refuses duplicate and unusable ids
        planned = {segment.video for segment in segments}
        usable = {index for index, video in enumerate(videos) if video.status == "ok"}
        assert planned == usable, "exactly the videos with status ok get rows"
        assert {s.shard for s in segments} == set(range(num_shards)), "every shard has rows"
        tables = {"videos": table_bytes(videos_to_table(videos)), "segments": table_bytes(segments_table(segments))}
        refs = {kind: TableRef(sha256=sha256_bytes(data), num_bytes=len(data)) for kind, data in tables.items()}
        while True:
            former = self.generations()
            for generation in former:  # their planners may have been killed before, or be slow: no note is left out
                self._note_planned(generation)
            number = len(former)
            plan = PlanDoc(
                generation=number,
                sampling_hash=recipe_hash(self.sampling),
                shard_rows=shard_rows,
                num_shards=num_shards,
                num_videos=len(videos),
                encode_batch=encode_batch,
                threads=threads,
                block_bytes=MAX_BLOCK_BYTES,
                videos=refs["videos"],
                segments=refs["segments"],
            )
            for kind in ("videos", "segments"):
                self._files.put_exact(paths.table(number, kind, refs[kind].sha256), tables[kind])
            if self.file_format == "zarr":
                self._files.put_new(f"{paths.generation(number)}/{paths.GROUP}", zarr_format.group_metadata())
            if self._files.put_new(paths.plan(number), seal(plan.to_json())):
                generation = read_generation(self._files, number, self.sampling)
                self._note_planned(generation)
                return generation

    def _note_planned(self, generation: Generation) -> None:
        name = paths.planned(generation.number)
        if not self._files.exists(name):  # one that is there was checked when its plan was read
            note = PlannedDoc(generation=generation.number, plan_hash=generation.plan_hash)
            self._files.put_new(name, seal(note.to_json()))

    def add_overlay(self, amendments: Iterable[Amendment]) -> None:
        """Publish changes to videos; the caller holds the planning lock, under which they were determined.

        Args:
            amendments: At most one per id; without any, nothing is published.
        """
        if amendments := list(amendments):
            generations = self.generations()
            publish_overlay(self._files, amendments, num_generations=len(generations), generations=generations)

    def committed(self, generation: Generation, feature: str) -> set[int]:
        """Shards of a feature with a valid record and files of the recorded size, synced before this returns."""
        return set(self._whole_records(generation, feature))

    def is_committed(self, generation: Generation, shard: int, *, feature: str) -> bool:
        """Whether a shard of a feature is among :meth:`committed`."""
        if self._whole_record(generation, shard, feature=self._feature(feature)) is None:
            return False
        self._files.settle(paths.commits(generation.number, feature))
        return True

    def complete(self, generation: Generation, feature: str) -> set[int]:
        """Seal a feature of a generation if all its shards are committed, so that a lost record is noticed afterwards.

        Returns:
            The shards that are not committed; empty if the feature is complete.
        """
        records = self._whole_records(generation, feature)
        lacking = set(range(generation.num_shards)) - set(records)
        if generation.num_shards and not lacking:
            publish_complete(generation, self._feature(feature), records)
        return lacking

    def _whole_records(self, generation: Generation, name: str) -> dict[int, CommitDoc]:
        """The records of the shards of :meth:`committed`, by shard."""
        feature = self._feature(name)  # an unknown name is an error, not a feature without shards
        shards = recorded_shards(generation, feature.name)
        whole = self._files.each(partial(self._whole_record, generation, feature=feature), shards)
        records = dict(zip(shards, whole, strict=True))
        found = {shard: record for shard, record in records.items() if record is not None}
        if found:  # the process that published the last may have died on the way
            self._files.settle(paths.commits(generation.number, name))
        return found

    def _whole_record(self, generation: Generation, shard: int, *, feature: FeatureDoc) -> CommitDoc | None:
        if not self._files.exists(paths.commit(generation.number, feature.name, shard)):
            return None
        try:
            record = read_record(generation, feature, shard)
        except CorruptStoreError as error:
            log.warning("shard %d of %r will be written again: %s", shard, feature.name, error)
            return None
        return record if is_whole(generation, feature, record, self.file_format) else None

    @contextmanager
    def shard_lock(self, generation: Generation, shard: int) -> Generator[bool]:
        """Claim a shard for a ``with`` block; yields False at once if another process has it."""
        with self._files.try_lock(paths.claim_lock(generation.number, shard), exclusive=True) as claimed:
            yield claimed

    def commit_shard(
        self,
        generation: Generation,
        shard: int,
        *,
        features: Mapping[str, npt.NDArray[np.generic]],
        present: npt.NDArray[np.bool_],
        rows: RowTable,
        outcomes: Sequence[VideoOutcome],
        provenance: Mapping[str, Any],
        scales: Mapping[str, Scale] = MappingProxyType({}),
    ) -> None:
        """Make a shard durable: data files, row table, then one commit record per feature.

        Args:
            generation: The generation.
            shard: Shard number.
            features: Name to [shard_rows, *record] in the dtype of
                :func:`featcache.store.precision.staging_dtype`; rows that are not present may hold anything.
            present: bool [shard_rows].
            rows: Row table with one entry per present row, in order.
            outcomes: One outcome per segment of the shard, in order.
            provenance: Library versions and device type, JSON-ready; without time and host name, so that the same
                shard has the same record everywhere.
            scales: float32 [C] of the int8 features whose rows are given as stored, copied from one other shard.

        Raises:
            NonFiniteFeatureError: A present row has NaN or infinity.
            DiskSpaceError: The disk is full; the shard stays uncommitted and no file is left torn.
            StoreError: The file system fails in another way.
        """
        check_shard(generation, shard, present=present, rows=rows, outcomes=outcomes)
        fresh = [name for name in features if (generation.number, name) not in self._with_metadata]
        documents = {name: self._feature(name) for name in features}
        table = rows_to_bytes(rows)
        ref = TableRef(sha256=sha256_bytes(table), num_bytes=len(table))
        lock = paths.publish_lock(generation.number, shard)  # nothing relies on it; in a bucket the claim has to do
        with nullcontext() if self._files.is_remote else self._files.lock(lock, exclusive=True):
            self._files.put_exact(paths.rows(generation.number, shard, ref.sha256), table)
            for name, array in features.items():
                commit_feature(
                    generation,
                    documents[name],
                    shard,
                    array=array,
                    present=present,
                    rows=ref,
                    failed=tuple(outcome for outcome in outcomes if outcome.status != "ok"),
                    provenance=provenance,
                    file_format=self.file_format,
                    with_metadata=name in fresh,
                    scale=scales.get(name),
                )
                self._with_metadata.add((generation.number, name))

    @contextmanager
    def marked(self, token: str) -> Generator[None]:
        """Mark the store for a ``with`` block, so that other machines can tell whether they see it.

        They ask :func:`featcache.store.documents.is_marked`.

        Args:
            token: Letters and digits that no other run uses.
        """
        self._files.put_new(paths.mark(token), b"")
        try:
            yield
        finally:
            self._files.remove(paths.mark(token))

    def keep_config(self, name: str, data: bytes) -> str:
        """Keep the settings of a command that writes here, under a name that carries their hash; returns where."""
        place = f"{paths.CONFIG}/{name}"
        self._files.put_new(place, data)
        return self._files.where(place)

    def _feature(self, name: str) -> FeatureDoc:
        if name not in self._declared:  # declarations never change
            features = read_features(self._files)
            if name not in features:
                raise unknown_name("feature", name, features)
            self._declared[name] = features[name]
        return self._declared[name]


def check_shard(
    generation: Generation,
    shard: int,
    *,
    present: npt.NDArray[np.bool_],
    rows: RowTable,
    outcomes: Sequence[VideoOutcome],
) -> None:
    """Check the caller's promise that outcomes, present rows and row table all agree with the plan."""
    where = generation.shard_slice(shard)
    columns = {name: column[where] for name, column in generation.segment_columns.items()}
    ids = [generation.video_ids[video] for video in columns["video"].tolist()]
    planned = list(zip(ids, columns["first_row"].tolist(), columns["num_rows"].tolist(), strict=True))
    given = [(outcome.id, outcome.first_row, outcome.num_rows) for outcome in outcomes]
    assert given == planned, f"shard {shard}: the outcomes are not those of its segments, in order"
    ok = np.array([outcome.status == "ok" for outcome in outcomes], bool)
    first_row, num_rows = columns["first_row"][ok], columns["num_rows"][ok]
    expected = np.zeros(generation.shard_rows, bool)
    expected[ranges(first_row, num_rows)] = True
    assert present.shape == expected.shape, f"present is {present.shape}, a shard has {expected.shape} rows"
    assert np.array_equal(present, expected), f"shard {shard}: the present rows are not those of the ok videos"
    assert np.array_equal(rows.row, np.flatnonzero(present)), f"shard {shard}: row table and present rows differ"
    video = np.repeat(columns["video"][ok], num_rows)
    assert np.array_equal(rows.video, video), f"shard {shard}: row table has other videos"
    clip = ranges(columns["first_clip"][ok], num_rows)
    assert np.array_equal(rows.clip, clip), f"shard {shard}: row table has other clips"
