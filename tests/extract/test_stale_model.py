"""A model of a store and its source: whatever is done in whatever order, a value read is that of the file whose hash
stands beside it.

Planning, committing and reading are the real ones. A made-up file is a number, and a feature of it says which.
"""

import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from featcache.data.manifest import Manifest
from featcache.data.types import VideoOutcome, VideoRecord
from featcache.errors import CorruptStoreError, StoreError
from featcache.extract.amending import relabel as amend_labels
from featcache.extract.work import add_generation
from featcache.files import claims, publish
from featcache.recipes import SamplingRecipe
from featcache.store.completion import reopen_lost
from featcache.store.generation import Generation
from featcache.store.reader import Store, open_store
from featcache.store.writer import StoreWriter
from featcache.testing.stores import make_recipe, make_record, row_details

NAMES = ("a", "b", "c", "d")
FEATURES = ("A", "B")
SAMPLING = SamplingRecipe(num_clips=2)
RECORD = make_record((2,), "float32")
SHARD_ROWS = 4
BROKEN_EVERY = 5  # each fifth file does not decode


class KilledError(BaseException):
    """The process is gone."""


def value_of(feature: str, content: int, clip: int) -> tuple[float, float]:
    return content, FEATURES.index(feature) + 10 * clip


class Source(RuleBasedStateMachine):
    """Files under names, a store of them, and every way in which both may change."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = self.folder / "store"
        (self.folder / "videos").mkdir()
        self.contents = {name: number + 1 for number, name in enumerate(NAMES[:3])}
        self.labels = dict.fromkeys(NAMES, "first")
        self.made = 3
        self.lost: set[str] = set()  # features of which a record was removed since they were last extracted

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @rule(name=st.sampled_from(NAMES))
    def replace(self, name: str) -> None:
        self.made += 1
        self.contents[name] = self.made
        self.labels[name] = f"label {self.made}"

    @rule(name=st.sampled_from(NAMES), label=st.sampled_from(["first", "second"]))
    def relabel(self, name: str, label: str) -> None:
        self.labels[name] = label

    @rule(old=st.sampled_from(NAMES), new=st.sampled_from(NAMES))
    def rename(self, old: str, new: str) -> None:
        if old in self.contents and old != new:
            self.contents[new] = self.contents.pop(old)

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: str) -> None:
        self.contents.pop(name, None)

    @precondition(lambda self: self.store.exists())
    @rule(choice=st.integers(0, 1000), newest=st.booleans())
    def remove_record(self, choice: int, newest: bool) -> None:
        records = sorted(self.store.glob("g*/commits/*/0*.json"))
        if records:
            record = records[-1 - choice % min(2, len(records))] if newest else records[choice % len(records)]
            record.unlink()
            self.lost.add(record.parent.name)
            self.check_values()

    @precondition(lambda self: (self.store / "featcache.json").exists())
    @rule()
    def relabel_store(self) -> None:
        before = open_store(self.store).videos
        if not before.keys() & self.contents.keys():
            return
        amend_labels(self.store, self.manifest())
        store = self.check_values()
        assert store is not None
        for name in before.keys() & self.contents.keys():
            assert store.videos[name].labels == {"label": self.labels[name]}

    @rule(feature=st.sampled_from(FEATURES))
    def extract(self, feature: str) -> None:
        self.run(feature)
        self.lost.clear()  # those of the other feature are no longer sealed
        store = self.check_values()
        assert store is not None
        assert store.coverage(feature).is_complete
        read = store.feature(feature)
        for name, content in self.contents.items():
            assert store.videos[name].content_hash == f"sha256:{content}", "the source's file is the one that counts"
            assert (name in read.video_ids) == (content % BROKEN_EVERY != 0)

    @rule(feature=st.sampled_from(FEATURES), after=st.integers(0, 30))
    def extract_and_be_killed(self, feature: str, after: int) -> None:
        calls = iter(range(after))

        def dying(real: Any) -> Any:
            def call(*args: Any, **options: Any) -> Any:
                if next(calls, None) is None:
                    raise KilledError
                return real(*args, **options)

            return call

        names = ("put_new", "put_replace", "remove")
        with (
            mock.patch.multiple(publish, **{name: dying(getattr(publish, name)) for name in names}),
            mock.patch.object(claims, "put_new", dying(claims.put_new)),  # on a disk without hard links
        ):
            try:
                self.run(feature)
                self.lost.clear()
            except KilledError:
                pass
        self.check_values()

    def check_values(self) -> Store | None:
        """Each value is that of the file whose hash stands beside it; called whenever the store may have changed."""
        if not (self.store / "featcache.json").exists():
            return None
        store = open_store(self.store)
        for feature in store.features:
            try:
                coverage = store.coverage(feature)
            except CorruptStoreError:
                assert feature in self.lost, "only a lost record is damage"
                continue
            assert coverage.ok + coverage.failed + coverage.pending == coverage.total
            read = store.feature(feature, partially=True)
            assert len(read.video_ids) == len(set(read.video_ids)) == coverage.ok
            for video_id in read.video_ids:
                content = int(store.videos[video_id].content_hash.removeprefix("sha256:"))
                expected = [value_of(feature, content, clip) for clip in range(2)]
                assert read.video(video_id).tolist() == [list(row) for row in expected]
            if coverage.pending:
                with pytest.raises(StoreError, match="still lacks"):
                    store.feature(feature)
        return store

    def run(self, feature: str) -> None:
        """What ``extract`` does, with the numbers of files in place of a backbone."""
        manifest = self.manifest()
        paths = {video.id: manifest.path_of(video) for video in manifest.videos}
        for path in (self.folder / "videos").iterdir():
            path.unlink()
        for video in manifest.videos:
            paths[video.id].write_bytes(bytes(video.num_bytes))
        prepared = SimpleNamespace(
            features=[SimpleNamespace(name=feature, record=RECORD)],
            settings=SimpleNamespace(retry_failed=False, shard_rows=SHARD_ROWS),
            sampling=SAMPLING,
            encode_batch=1,
            threads=1,
        )
        reopen_lost(self.store)
        with StoreWriter.open(self.store, sampling=SAMPLING) as writer:
            writer.declare_feature(feature, make_recipe(precision="float32", layer=feature), RECORD)
            with writer.planning_lock():
                add_generation(writer, manifest, paths=paths, prepared=prepared)  # type: ignore[arg-type]
            for generation in writer.generations():
                for shard in sorted(set(range(generation.num_shards)) - writer.committed(generation, feature)):
                    self.commit(writer, generation, shard, feature)
                writer.complete(generation, feature)

    def manifest(self) -> Manifest:
        videos = tuple(self.scanned(name) for name in sorted(self.contents))
        return Manifest(root=str(self.folder / "videos"), videos=videos)

    def scanned(self, name: str) -> VideoRecord:
        content = self.contents[name]
        broken = content % BROKEN_EVERY == 0
        return VideoRecord(
            id=name,
            path=name,
            num_bytes=content,
            content_hash=f"sha256:{content}",
            num_frames=0 if broken else 30,
            duration_seconds=0.0 if broken else 1.0,
            labels={"label": self.labels[name]},
            status="undecodable" if broken else "ok",
            reason="made so" if broken else "",
        )

    def commit(self, writer: StoreWriter, generation: Generation, shard: int, feature: str) -> None:
        outcomes, kept = [], []
        array = np.zeros((SHARD_ROWS, 2), np.float32)
        names = open_store(self.store).shown_ids[generation.number]  # renamed files are read where they are now
        for segment in generation.shard_segments(shard):
            video = generation.videos[segment.video]
            now = self.contents.get(names[segment.video] or "")
            status = "missing" if now is None else "ok" if video.content_hash == f"sha256:{now}" else "changed"
            if status == "ok":
                kept.append(segment)
                for clip in range(segment.num_rows):
                    array[segment.first_row + clip] = value_of(feature, now, segment.first_clip + clip)
            outcomes.append(
                VideoOutcome(
                    id=video.id,
                    status=status,
                    reason="" if status == "ok" else "made so",
                    first_row=segment.first_row,
                    num_rows=segment.num_rows,
                )
            )
        rows = row_details(kept)
        present = np.zeros(SHARD_ROWS, bool)
        present[rows.row] = True
        writer.commit_shard(
            generation, shard, features={feature: array}, present=present, rows=rows, outcomes=outcomes, provenance={}
        )


def check_model(examples: int, *, steps: int = 40, seed: int = 0) -> None:
    machine = hypothesis_seed(seed)(Source) if seed else Source
    with mock.patch.object(os, "fsync", return_value=None):  # power failures are another model's
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                derandomize=not seed,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_25_histories_of_40_steps() -> None:
    check_model(25)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_5000_histories_of_40_steps() -> None:
    check_model(5000)
