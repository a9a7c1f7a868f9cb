"""Opens a store for reading: its videos, labels, coverage and features."""

from collections import Counter
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from featcache.data.labels import label_columns, labels_in
from featcache.data.types import PASSING, STATUSES, VideoRecord
from featcache.errors import StoreError, no_name, unknown_name
from featcache.files.base import open_files, store_place
from featcache.recipes import FeatureRecipe, RecordSpec, SamplingRecipe, recipe_hash, to_dict
from featcache.store.documents import read_features, read_root
from featcache.store.features import Features
from featcache.store.generation import Generation, read_generations
from featcache.store.index import (
    Committed,
    Mask,
    Views,
    alike,
    build_index,
    choose_views,
    current_videos,
    read_committed,
    visible_videos,
)
from featcache.store.open_files import default_max_open
from featcache.store.outcomes import Failure, VideoOutcomes
from featcache.store.overlay import Amendment, Overlay, amend, check_generations, read_overlays, shown, shown_ids
from featcache.store.row_reader import Device
from featcache.store.schema import FeatureDoc


class Store:
    """A store opened for reading. See :func:`open_store`.

    Attributes:
        path: Folder of the store, or its URL in a bucket.
        sampling: Sampling recipe: the clips and boxes that were read.
        file_format: ``zarr`` or ``hdf5``.
        overlays: Changes to videos since they were planned, in order.
        generations: The generations, in order.
    """

    def __init__(self, path: Path | str) -> None:
        files = open_files(path)
        document = read_root(files)
        self.path = path
        self.sampling: SamplingRecipe = document.sampling
        self.file_format = document.file_format
        self.overlays: list[Overlay] = read_overlays(files)  # before the generations that they are about
        self.generations: list[Generation] = read_generations(files, document.sampling)
        check_generations(files, self.overlays, self.generations)
        self._features: dict[str, FeatureDoc] = read_features(files)
        self._committed: dict[str, list[Committed]] = {}

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, features={sorted(self._features)}, num_videos={len(self.videos)})"

    @property
    def features(self) -> dict[str, tuple[FeatureRecipe, RecordSpec]]:
        """Declared features: name to recipe and record."""
        return {name: (doc.recipe, doc.record) for name, doc in self._features.items()}

    @cached_property
    def amended(self) -> list[dict[int, Amendment]]:
        """For each generation, the amendments by overlays, by row of its videos table."""
        return amend(self.generations, self.overlays)

    @cached_property
    def shown_ids(self) -> list[list[str | None]]:
        """For each generation, the present ids of its videos; ``None`` for a removed video."""
        return [shown_ids(one, amended) for one, amended in zip(self.generations, self.amended, strict=True)]

    @cached_property
    def removed_videos(self) -> dict[str, VideoRecord]:
        """Id to record of the removed videos."""
        return {
            one.record.id: shown(generation.videos[row], one)
            for generation, amended in zip(self.generations, self.amended, strict=True)
            for row, one in amended.items()
            if one.removed
        }

    @cached_property
    def videos(self) -> dict[str, VideoRecord]:
        """Video id to record, in the order in which ids first appeared.

        If several plans have the same id, the content of the latest counts, and among those with that content the
        latest that is ``ok``. Overlays change id, path, labels and split, and remove videos.
        """
        order = dict.fromkeys(name for names in self.shown_ids for name in names if name is not None)
        videos: dict[str, VideoRecord] = {}
        for generation, amended, current in zip(self.generations, self.amended, self._current, strict=True):
            for row, (video, counts) in enumerate(zip(generation.videos, current.tolist(), strict=True)):
                if not counts:
                    continue
                record = shown(video, amended.get(row))
                known = videos.get(record.id)
                if known is None or record.status == "ok" or known.status != "ok":
                    videos[record.id] = record
        return {video_id: videos[video_id] for video_id in order}

    @cached_property
    def _current(self) -> list[Mask]:
        return current_videos(self.generations, self.shown_ids)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Label columns, ``label`` first."""
        return label_columns(self.videos.values())

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, sorted; empty if the source has none."""
        return tuple(sorted({video.split for video in self.videos.values() if video.split}))

    def labels(self, column: str = "label", *, split: str | None = None) -> dict[str, str]:
        """Video id to label, for the videos that have one.

        Args:
            column: Label column.
            split: Only videos of this split.

        Raises:
            UnknownNameError: No such label column or split.
        """
        named = labels_in(self.videos, column)
        return named if split is None else {each: named[each] for each in self.video_ids(split=split) if each in named}

    def video_ids(self, *, split: str | None = None) -> list[str]:
        """Ids of all videos of the manifest, or of a split.

        Raises:
            UnknownNameError: No such split.
        """
        if split is not None and split not in self.splits:
            raise unknown_name("split", split, self.splits)
        return [video.id for video in self.videos.values() if split is None or video.split == split]

    def coverage(self, feature: str | None = None) -> VideoOutcomes:
        """Coverage of a feature: the outcome of every video."""
        committed = self._read_committed(self._document(feature))
        last: dict[str, Failure | None] = {}  # None: ok
        pending: set[str] = set()
        for one, names, current in zip(committed, self.shown_ids, self._current, strict=True):
            failed = {outcome.id: outcome for record in one.records.values() for outcome in record.failed}
            flags = (column.tolist() for column in (current, one.video_ok, one.video_pending))
            for video, name, is_current, is_ok, is_pending in zip(one.generation.videos, names, *flags, strict=True):
                if not is_current or name is None:
                    continue
                if is_ok:
                    last[name] = None
                    pending.discard(name)
                elif name in last and last[name] is None:
                    continue
                elif video.id in failed:
                    outcome = failed[video.id]
                    last[name] = Failure(id=name, status=outcome.status, reason=outcome.reason)
                    pending.discard(name)
                elif is_pending:
                    pending.add(name)
                else:
                    last[name] = Failure(id=name, status=video.status, reason=video.reason)
                    pending.discard(name)
        failures = tuple(
            failure for video_id in self.videos if video_id not in pending and (failure := last[video_id]) is not None
        )
        ok = len(self.videos) - len(failures) - len(pending)
        counts = Counter(failure.status for failure in failures)
        return VideoOutcomes(
            ok=ok,
            failed=len(failures),
            pending=len(pending),
            total=len(self.videos),
            by_status={status: ok if status == "ok" else counts[status] for status in STATUSES},
            failures=failures,
        )

    def tries(self, feature: str | None = None) -> Counter[str]:
        """How often each video, with its present content, has failed with a fault that may be temporary."""
        counts: Counter[str] = Counter()
        committed = self._read_committed(self._document(feature))
        for one, names, current in zip(committed, self.shown_ids, self._current, strict=True):
            failed = {
                outcome.id: outcome.tries
                for record in one.records.values()
                for outcome in record.failed
                if outcome.status in PASSING
            }
            if failed:
                rows = zip(one.generation.video_ids, names, current.tolist(), strict=True)
                counts.update(
                    {
                        name: failed[planned]
                        for planned, name, is_current in rows
                        if name and is_current and planned in failed
                    }
                )
        return counts

    def feature(
        self,
        name: str | None = None,
        *,
        splits: Mapping[str, str] | None = None,
        all_views: bool = False,
        device: Device = "mmap",
        verify: bool = True,
        max_open_maps: int | None = None,
        keep_bytes: int = 0,
        partially: bool = False,
    ) -> Features:
        """Open a feature.

        Args:
            name: Name of the feature; may be omitted if the store has only one.
            splits: Split of each video by its id, which decides whether its training or its test views are read where
                a store has both (``sampling.both_views``); ``None``: the store's own splits.
            all_views: Read every stored row of each video, its training and its test views alike.
            device: ``mmap`` maps shard files on demand, best for files in the page cache; ``disk`` reads many rows at
                the same time, for a feature that memory does not hold; ``ram`` loads all rows at once.
            verify: Check each block's crc32c when it is first read.
            max_open_maps: Number of files open at once; ``None``: half of this process's file descriptors, at most
                1000.
            keep_bytes: With ``disk``: read whole blocks, and keep so many bytes of them in memory; for an order in
                which the rows of a block are close together. 0: keep none.
            partially: Accept a feature whose shards are not all extracted.

        Raises:
            UnknownNameError: There is no such feature, or there are several and no name is given.
            StoreError: Videos are still to be extracted.
            CorruptStoreError: A record is damaged or swapped.
        """
        document = self._document(name)
        committed = self._read_committed(document)
        # By videos, not shards: a retried video may have rows in an older generation although this one lacks them.
        # Only if there is something to count are the records of all videos made, which takes seconds for a million.
        may_lack = not partially and any(one.video_pending.any() for one in committed)
        if may_lack and (pending := self.coverage(document.name).pending):
            raise StoreError(
                f"feature {document.name!r} of {self.path} still lacks {pending} of {len(self.videos)} videos; "
                "run the command that fills it again to finish it"
            )
        index = build_index(
            committed,
            visible_videos(committed, self.shown_ids, self._current),
            self.shown_ids,
            views=[
                alike(self.sampling, one.plan.num_videos) if all_views else self._views(number, splits)
                for number, one in enumerate(self.generations)
            ],
            feature=document,
            file_format=self.file_format,
        )
        return Features(
            document,
            index,
            file_format=self.file_format,
            device=device,
            verify=verify,
            max_open_maps=max_open_maps or default_max_open(),
            keep_bytes=keep_bytes,
            reopen=partial(
                _reopen,
                self.path,
                document.name,
                splits=splits,
                all_views=all_views,
                device=device,
                verify=verify,
                max_open_maps=max_open_maps,
                keep_bytes=keep_bytes,
                partially=partially,
            ),
        )

    def num_rows(self, feature: str | None = None) -> int:
        """Number of rows that are stored of all videos of a feature, training and test views alike."""
        committed = self._read_committed(self._document(feature))
        visible = visible_videos(committed, self.shown_ids, self._current)
        return sum(_num_rows(one.generation, videos) for one, videos in zip(committed, visible, strict=True))

    def info(self) -> dict[str, Any]:
        """A summary, short enough for a screen, as JSON-ready values."""
        return {
            "path": str(self.path),
            "file_format": self.file_format,
            "layout": self.sampling.layout,
            "sampling": to_dict(self.sampling),
            "sampling_hash": recipe_hash(self.sampling),
            "num_videos": len(self.videos),
            "num_removed": len(self.removed_videos),
            "splits": {name: len(self.video_ids(split=name)) for name in self.splits},
            "labels": {name: len(set(self.labels(name).values())) for name in self.label_names},
            "generations": [
                {"number": one.number, "num_videos": one.plan.num_videos, "num_shards": one.num_shards}
                for one in self.generations
            ],
            "features": {name: self._feature_info(name) for name in sorted(self._features)},
        }

    def _feature_info(self, name: str) -> dict[str, Any]:
        document = self._features[name]
        coverage = self.coverage(name)
        committed = self._read_committed(document)
        records = [record for one in committed for record in one.records.values()]
        return {
            "backbone": document.recipe.backbone,
            "layer": document.recipe.layer,
            "output": document.recipe.output,
            **({"classes": list(document.recipe.classes)} if document.recipe.classes is not None else {}),
            "weights_hash": document.recipe.weights_hash,
            "recipe_hash": recipe_hash(document.recipe),
            "record_shape": list(document.record.shape),
            "axes": list(document.record.axes),
            "dtype": document.record.dtype,
            "num_rows": self.num_rows(name),
            "num_bytes": sum(record.data.num_bytes for record in records if record.data is not None),
            "num_shards": sum(one.generation.num_shards for one in committed),
            "num_committed_shards": len(records),
            "coverage": {
                "ok": coverage.ok,
                "failed": coverage.failed,
                "pending": coverage.pending,
                "total": coverage.total,
                "by_status": dict(coverage.by_status),
            },
        }

    def _views(self, number: int, splits: Mapping[str, str] | None) -> Views:
        """The rows of the videos of a generation that are read."""
        generation = self.generations[number]
        if self.sampling.test is None:
            return alike(self.sampling, generation.plan.num_videos)
        if not self.sampling.both_views:  # views follow the split of the plan
            own = [video.split for video in generation.videos]
        elif splits is None:
            amended = self.amended[number]
            own = [shown(video, amended.get(row)).split for row, video in enumerate(generation.videos)]
        else:
            own = ["" if name is None else splits.get(name, "") for name in self.shown_ids[number]]
        return choose_views(self.sampling, generation, own)

    def _document(self, name: str | None) -> FeatureDoc:
        if name is None and len(self._features) == 1:
            return next(iter(self._features.values()))
        if name is None:
            raise no_name("feature", self.path, self._features)
        if name not in self._features:
            raise unknown_name("feature", name, self._features)
        return self._features[name]

    def _read_committed(self, document: FeatureDoc) -> list[Committed]:
        if document.name not in self._committed:
            self._committed[document.name] = [read_committed(one, document) for one in self.generations]
        return self._committed[document.name]


def _num_rows(generation: Generation, videos: Mask) -> int:
    """Number of rows that a plan gives to some of its videos."""
    columns = generation.segment_columns
    return int(columns["num_rows"][videos[columns["video"]]].sum())


def open_store(path: Path | str) -> Store:
    """Open a store.

    Raises:
        StoreError: There is no store, or one of a newer format.
        CorruptStoreError: Descriptions or plans are damaged.
    """
    return Store(store_place(path))


def _reopen(
    path: Path | str,
    name: str,
    *,
    splits: Mapping[str, str] | None,
    all_views: bool,
    device: Device,
    verify: bool,
    max_open_maps: int | None,
    keep_bytes: int,
    partially: bool,
) -> Features:
    return open_store(path).feature(
        name,
        splits=splits,
        all_views=all_views,
        device=device,
        verify=verify,
        max_open_maps=max_open_maps,
        keep_bytes=keep_bytes,
        partially=partially,
    )
