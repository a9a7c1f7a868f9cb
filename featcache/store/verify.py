"""Verification: reads every file of a store and compares it with the records, plans and recipes."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from featcache.errors import CorruptStoreError, FeatcacheError
from featcache.files.base import Files, open_files
from featcache.files.publish import is_temp
from featcache.files.sealed import sha256_bytes, unseal
from featcache.store import paths, zarr_format
from featcache.store.completion import check_complete, read_complete
from featcache.store.documents import feature_names, read_feature, read_root
from featcache.store.generation import (
    Generation,
    present_rows,
    read_generations,
    read_record,
    read_rows,
    recorded_shards,
)
from featcache.store.overlay import (
    amend,
    check_generations,
    overlay_numbers,
    overlay_table,
    read_overlay,
    read_overlays,
)
from featcache.store.paths import FileFormat
from featcache.store.schema import CommitDoc, FeatureDoc
from featcache.store.whole import check_data
from featcache.summary import Summary
from featcache.units import readable_bytes

OnFile = Callable[[str], None]

_CONFIG_NAME = re.compile(r"[a-z0-9-]+-([0-9a-f]{12})\.yaml", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem of a file.

    Attributes:
        path: The file, relative to the store.
        what: The problem, in one sentence.
    """

    path: str
    what: str


@dataclass(slots=True, kw_only=True)
class Report:
    """Result of :func:`verify`.

    Attributes:
        problems: Problems; empty for a store that can be trusted.
        notes: Unusual but harmless findings: left-overs of killed writers, files that do not belong to the store.
        num_files: Number of files checked.
        num_bytes: Total size of these files.
        num_pending: Number of shards that are still to be extracted, by feature.
    """

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_files: int = 0
    num_bytes: int = 0
    num_pending: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "ok": self.ok,
            "problems": [{"path": problem.path, "what": problem.what} for problem in self.problems],
            "notes": self.notes,
            "num_files": self.num_files,
            "num_bytes": self.num_bytes,
            "num_pending": self.num_pending,
        }

    def summary(self) -> Summary:
        """What to show of it."""
        pending = sum(self.num_pending.values())
        still = f"; {pending} shards still to be extracted" if pending else ""
        return Summary(
            lines=(
                *(f"{problem.path}: {problem.what}" for problem in self.problems),
                *self.notes,
                f"{len(self.problems)} problems in {self.num_files} files, {readable_bytes(self.num_bytes)}{still}",
            )
        )


class _Checker:
    """Walks a store once and remembers which files it has checked."""

    def __init__(self, files: Files, *, deep: bool, progress: OnFile | None) -> None:
        self.files = files
        self.deep = deep
        self.report = Report()
        self._progress = progress
        self._known: set[str] = set()

    def check(self, name: str, test: Callable[[], object]) -> bool:
        """Check one file; a failure becomes a problem."""
        self._known.add(name)
        self.report.num_files += 1
        if self._progress:
            self._progress(name)

        def measured() -> None:
            test()
            self.report.num_bytes += self.files.size(name) or 0

        return self.attempt(name, measured)

    def attempt(self, name: str, action: Callable[[], object]) -> bool:
        """Do work that a damaged file or folder may prevent; a failure becomes a problem of that file."""
        try:
            action()
        except (FeatcacheError, OSError) as error:
            self.report.problems.append(Problem(path=name, what=str(error)))
            return False
        return True

    def exactly(self, name: str, expected: bytes) -> None:
        """Check a file whose bytes all follow from the plan."""

        def test() -> None:
            if self.files.read(name, what="metadata") != expected:
                raise CorruptStoreError(
                    f"{self.files.where(name)} is damaged (it differs from what its plan gives); run extract again"
                )

        self.check(name, test)

    def run(self) -> Report:
        """Check everything that can be reached."""
        root = read_root(self.files)  # without it nothing else has a meaning
        self.check(paths.ROOT, lambda: None)
        if root.file_format == "zarr":
            self.exactly(paths.GROUP, zarr_format.group_metadata())
        features = self._features()
        generations: list[Generation] = []
        try:
            generations = read_generations(self.files, root.sampling)
        except FeatcacheError as error:
            self.report.problems.append(Problem(path="", what=str(error)))
        for generation in generations:
            self._generation(generation, features, root.file_format)
        self._overlays(generations)
        self._undeclared(features)
        self._config()
        self._rest()
        return self.report

    def _overlays(self, generations: list[Generation]) -> None:
        """Check each overlay with its table, and then that they follow each other and fit the plans."""
        folder = paths.OVERLAYS
        numbers: list[int] = []
        self.attempt(folder, lambda: numbers.extend(overlay_numbers(self.files)))
        are_whole = [self._overlay(number) for number in numbers]
        if numbers and all(are_whole):
            self.attempt(folder, lambda: self._overlays_fit(generations))

    def _overlay(self, number: int) -> bool:
        places: list[str] = []
        if not self.check(paths.overlay(number), lambda: places.append(overlay_table(self.files, number))):
            return False
        return self.check(places[0], lambda: read_overlay(self.files, number, previous=None))

    def _overlays_fit(self, generations: list[Generation]) -> None:
        overlays = read_overlays(self.files)
        check_generations(self.files, overlays, generations)
        amend(generations, overlays)

    def _features(self) -> dict[str, FeatureDoc]:
        features: dict[str, FeatureDoc] = {}
        names: list[str] = []
        self.attempt(paths.FEATURES, lambda: names.extend(feature_names(self.files)))
        for name in names:
            self.check(paths.feature(name), partial(self._feature, name, features))
        return features

    def _feature(self, name: str, features: dict[str, FeatureDoc]) -> None:
        features[name] = read_feature(self.files, name)

    def _generation(self, generation: Generation, features: dict[str, FeatureDoc], file_format: FileFormat) -> None:
        number = generation.number
        self.check(paths.plan(number), lambda: None)
        plan = generation.plan
        videos = paths.table(number, "videos", plan.videos.sha256)
        segments = paths.table(number, "segments", plan.segments.sha256)
        readable = self.check(videos, lambda: generation.videos)
        fit = partial(_check_segments, generation) if readable else lambda: generation.segment_columns
        readable = self.check(segments, fit) and readable
        if file_format == "zarr":
            self.exactly(f"{paths.generation(number)}/{paths.GROUP}", zarr_format.group_metadata())
        planned = paths.planned(number)
        if self.files.exists(planned):  # what it says was compared when the plans were read
            self.check(planned, lambda: None)
        for feature in features.values() if readable else ():  # without the tables no record can be checked
            commits = paths.commits(number, feature.name)
            shards: list[int] = []
            if not self.attempt(commits, lambda: shards.extend(recorded_shards(generation, feature.name))):  # noqa: B023
                continue
            self._completion(generation, feature)
            self.report.num_pending.setdefault(feature.name, 0)
            self.report.num_pending[feature.name] += generation.num_shards - len(shards)
            block_sizes = set()
            for shard in shards:
                block_sizes |= self._shard(generation, feature, shard, file_format)
            if file_format == "zarr" and shards:
                self._array_metadata(generation, feature, block_sizes)

    def _completion(self, generation: Generation, feature: FeatureDoc) -> None:
        path = paths.complete(generation.number, feature.name)
        if not self.files.exists(path):
            return
        records: dict[int, CommitDoc] = {}
        for shard in recorded_shards(generation, feature.name):
            with suppress(FeatcacheError):  # a damaged record is reported for its own file, see below
                records[shard] = read_record(generation, feature, shard)
        if len(records) == len(recorded_shards(generation, feature.name)):
            self.check(path, lambda: check_complete(generation, feature, read_complete(generation, feature), records))
        else:
            self.check(path, lambda: None)

    def _shard(self, generation: Generation, feature: FeatureDoc, shard: int, file_format: FileFormat) -> set[int]:
        path = paths.commit(generation.number, feature.name, shard)
        found: list[CommitDoc] = []
        if not self.check(path, lambda: found.append(read_record(generation, feature, shard))):
            return set()
        record = found[0]
        rows = paths.rows(generation.number, shard, record.rows.sha256)
        self.check(rows, lambda: _check_rows(generation, record))
        if record.data is None:
            return set()
        ndim = len(feature.record.shape)
        data = paths.data(file_format, generation.number, feature.name, shard, record_ndim=ndim)
        self.check(data, lambda: check_data(generation, feature, record, file_format, deep=self.deep))
        if record.int8_scale is not None and file_format == "zarr":
            scale = paths.scale_chunk(generation.number, feature.name, shard)
            self.exactly(scale, zarr_format.scale_chunk(record.int8_scale))
        return {record.data.block_rows}

    def _array_metadata(self, generation: Generation, feature: FeatureDoc, block_sizes: set[int]) -> None:
        path = f"{paths.array(generation.number, feature.name)}/{paths.GROUP}"
        if len(block_sizes) > 1:
            self.check(path, lambda: _raise(f"{path} cannot fit shards with blocks of {sorted(block_sizes)} rows"))
        for size in block_sizes:
            expected = zarr_format.array_metadata(
                feature.record,
                num_shards=generation.num_shards,
                shard_rows=generation.shard_rows,
                block_rows=size,
                name=feature.name,
            )
            self.exactly(path, expected)
        if feature.record.dtype == "int8":
            scales = zarr_format.scale_metadata(num_shards=generation.num_shards, num_channels=feature.record.shape[-1])
            self.exactly(f"{paths.scale_array(generation.number, feature.name)}/{paths.GROUP}", scales)

    def _undeclared(self, features: dict[str, FeatureDoc]) -> None:
        parts = [name.split("/") for name, _ in self.files.walk()]
        recorded = {part[2] for part in parts if len(part) > 3 and part[0].startswith("g") and part[1] == "commits"}
        for feature in sorted(recorded - set(features)):
            name = paths.feature(feature)
            if name not in self._known:
                where = self.files.where(name)
                self.check(name, partial(_raise, f"feature recipe {where} is missing under its records; restore it"))

    def _config(self) -> None:
        names: list[str] = []
        self.attempt(paths.CONFIG, lambda: names.extend(self.files.names(paths.CONFIG)))
        for name in names:
            if name.endswith(".yaml"):
                self.check(f"{paths.CONFIG}/{name}", partial(_check_config, self.files, name))

    def _rest(self) -> None:
        """Report files that have not been checked above."""
        for name, num_bytes in self.files.walk():
            if name in self._known:
                continue
            if num_bytes is None:
                where = self.files.where(name)
                self.check(name, partial(_raise, f"{where} is a symbolic link or no file at all; remove it"))
            elif name == paths.DISK:
                self.check(name, partial(_check_disk, self.files))
            elif paths.is_doubt(name):
                self.report.notes.append(
                    f"{name} says that a killed writer may have replaced files under a record; if no problem is "
                    "reported, they agree, and `featcache gc` removes this note"
                )
            elif name.startswith("locks/"):
                continue
            elif is_temp(name.rpartition("/")[2]):
                self.report.notes.append(f"{name} is the temporary file of a killed writer; `featcache gc` removes it")
            else:
                self.report.notes.append(f"{name} belongs to no commit record")


def count_files(path: Path | str) -> int:
    """About how many files :func:`verify` will check: those that are there."""
    files = open_files(path)
    return sum(num_bytes is not None for _, num_bytes in files.walk())


def verify(path: Path | str, *, deep: bool = True, progress: OnFile | None = None) -> Report:
    """Check a store: every sealed document, table, data file, Zarr metadata and saved configuration.

    Args:
        path: The store.
        deep: Read data files completely; otherwise only their size is checked.
        progress: Called with each file's relative path.

    Raises:
        StoreError: There is no store, or one of a newer format.
        CorruptStoreError: ``featcache.json`` itself is damaged, so that nothing else can be checked.
    """
    return _Checker(open_files(path), deep=deep, progress=progress).run()


def _raise(sentence: str) -> None:
    raise CorruptStoreError(sentence)


def _check_segments(generation: Generation) -> None:
    """Check that segments, which were compared with the plan when read, give rows to exactly the usable videos."""
    usable = [index for index, video in enumerate(generation.videos) if video.status == "ok"]
    if not np.array_equal(np.unique(generation.segment_columns["video"]), usable):
        raise CorruptStoreError(f"the segments of generation {generation.number} do not fit its plan")


def _check_rows(generation: Generation, record: CommitDoc) -> None:
    """Check that the row table lists exactly the rows that are present according to the record's outcomes."""
    rows = read_rows(generation, record)
    segments = generation.shard_segments(record.shard)
    if not np.array_equal(rows.row, np.flatnonzero(present_rows(generation, record))):
        raise CorruptStoreError(f"the row table of shard {record.shard} lists other rows than its commit record")
    first = {segment.first_row: segment for segment in segments}
    starts = np.array(sorted(first))
    mine = [first[start] for start in starts[np.searchsorted(starts, rows.row, side="right") - 1].tolist()]
    video = np.array([segment.video for segment in mine], np.int32)
    clip = np.array([segment.first_clip - segment.first_row for segment in mine], np.int32) + rows.row
    if not (np.array_equal(rows.video, video) and np.array_equal(rows.clip, clip)):
        raise CorruptStoreError(f"the row table of shard {record.shard} has other videos or clips than its plan")


def _check_disk(files: Files) -> None:
    unseal(files.read(paths.DISK, what="record of the disk"), where=files.where(paths.DISK), what="record of the disk")


def _check_config(files: Files, name: str) -> None:
    match = _CONFIG_NAME.fullmatch(name)
    place = f"{paths.CONFIG}/{name}"
    if match is None or not sha256_bytes(files.read(place, what="saved configuration")).startswith(match[1]):
        raise CorruptStoreError(f"saved configuration {files.where(place)} was changed (its name carries another hash)")
