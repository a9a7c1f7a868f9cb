"""Stores to export, and what two stores must share."""

from dataclasses import replace

import numpy as np

from featcache.exchange.exporting import export
from featcache.exchange.importing import import_features
from featcache.exchange.listing import read_recipe
from featcache.exchange.settings import ExportSettings, ImportSettings
from featcache.recipes import RecordSpec, SamplingRecipe
from featcache.store.reader import open_store
from featcache.testing.stores import NUM_FRAMES, StorePlan, make_record, write_store

SAMPLING = SamplingRecipe(layout="clips", temporal="imported", spatial="imported", num_frames=NUM_FRAMES)
BACK = {"npy": "npy", "webdataset": "webdataset", "parquet": "hf", "hf": "hf"}


def make_store(path, *, record: RecordSpec | None = None, sampling=SAMPLING, **plan):
    """A store with failures of both kinds."""
    plan = {
        "num_videos": 7,
        "rows_per_video": (4, 1, 11),
        "shard_rows": 32,
        "failing": {3: "timeout"},
        "unusable": {5: "missing"},
        **plan,
    }
    write_store(path, StorePlan(records={"a": record or make_record((6,))}, **plan), sampling=sampling)
    return path


def send(store, out, format_, **settings):
    return export(ExportSettings(store=str(store), out=str(out), format=format_, **settings))


def receive(source, out, format_, **settings):
    """Import an export by its own recipe."""
    known = read_recipe(source / "recipe.yaml")
    parts = {"feature": known["feature"], "sampling": known["sampling"], **known["plan"], **settings}
    return import_features(ImportSettings(source=str(source), out=str(out), format=format_, **parts))


def bring(source, out, format_="npy", **settings):
    """Import arrays of which little is known."""
    settings = {"feature": {"backbone": "theirs"}, **settings}
    return import_features(ImportSettings(source=str(source), out=str(out), format=format_, **settings))


def assert_same(mine, theirs, feature="a"):
    """Two stores hold the same videos, rows and bits; int8 against the float32 that it stands for."""
    left, right = open_store(mine), open_store(theirs)
    assert list(left.videos) == list(right.videos)
    failures = {failure.id: failure for failure in left.coverage(feature).failures}
    assert {failure.id: failure for failure in right.coverage(feature).failures} == failures
    for video_id, video in left.videos.items():
        failure = failures.get(video_id)
        expected = replace(video, status=failure.status, reason=failure.reason) if failure else video
        assert right.videos[video_id] == expected
    with left.feature(feature) as a, right.feature(feature) as b:
        assert a.video_ids == b.video_ids
        values = a.gather(np.arange(a.num_rows), dequantised=a.record.dtype == "int8")
        assert values.dtype == b.dtype
        assert values.tobytes() == b[:].tobytes()
        assert b.record == replace(a.record, dtype=b.record.dtype)
        assert b.recipe == replace(a.recipe, precision=b.recipe.precision)
        for name in ("video", "clip", "frames", "pts_seconds", "t0", "t1", "y0", "x0", "y1", "x1", "flip"):
            mine_, their_ = getattr(a.rows, name), getattr(b.rows, name)
            assert mine_.dtype == their_.dtype, name
            assert mine_.tobytes() == their_.tobytes(), name
    assert right.sampling == left.sampling
    assert right.generations[-1].encode_batch == left.generations[-1].encode_batch
