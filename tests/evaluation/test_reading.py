"""From real stores to probe data: averaged maps, coverage by split, errors that say what to do."""

import dataclasses

import numpy as np
import pytest

from featcache.errors import ManifestError, NothingUsableError, StoreError, UnknownNameError
from featcache.evaluation.reading import read_data
from featcache.evaluation.run import run_probe
from featcache.metrics.result import Coverage
from featcache.recipes import SamplingRecipe
from featcache.store.reader import open_store
from featcache.store.writer import StoreWriter
from featcache.testing import stores

RECORDS = {
    "pooled": stores.make_record((16,)),
    "dense": stores.make_record((2, 3, 16)),
    "tiny": stores.make_record((4, 16), "int8"),
    "exact": stores.make_record((16,), "float32"),
}
PLAN = stores.StorePlan(
    records=RECORDS,
    num_videos=24,
    rows_per_video=(3, 1, 5),
    unusable={3: "undecodable", 4: "missing"},
    failing={7: "timeout"},
)


@pytest.fixture(scope="module", params=["zarr", "hdf5"])
def store(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / request.param
    more = stores.StorePlan(records=RECORDS, num_videos=4, first_video=24)
    stores.write_store(path, PLAN, more, file_format=request.param)
    return path


@pytest.mark.parametrize("name", RECORDS)
def test_rows_are_averaged_vectors_of_their_videos(store, name, monkeypatch):
    monkeypatch.setattr("featcache.evaluation.reading.BYTES_AT_ONCE", 1000)  # several chunks
    data = read_data(store, feature=name)
    assert data.features.shape == (len(data.row_video), 16)
    assert (data.store, data.feature, data.label) == (str(store), name, "label")
    assert data.videos == tuple(f"v{n:04d}" for n in range(28) if n not in (3, 4, 7))
    assert [data.classes[label] for label in data.labels] == ["ab"[int(v[1:]) % 2] for v in data.videos]
    clip = np.concatenate([np.arange(count) for count in data.rows_of(np.arange(len(data.videos)))[1]])
    record = RECORDS[name]
    for row in (0, 5, len(clip) - 1):
        meant = stores.record_values(name, data.videos[data.row_video[row]], int(clip[row]), record)
        tolerance = {"int8": 0.05, "float16": 2e-3, "float32": 0}[record.dtype]
        np.testing.assert_allclose(
            data.features[row], meant.reshape(-1, 16).mean(axis=0, dtype=np.float32), atol=tolerance
        )


def test_coverage_counts_every_video_of_each_split(store):
    data = read_data(open_store(store), feature="pooled")
    # Every third video is a test video: 3 (unusable) of 0, 3, ... 27; 4 and 7 of the others failed.
    assert data.coverage == {
        "test": Coverage(ok=9, failed=1, total=10),
        "train": Coverage(ok=16, failed=2, total=18),
    }
    result = run_probe("knn", data)
    assert result.splits["test"].coverage == data.coverage["test"]
    assert result.train == data.coverage["train"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"feature": "poled"}, "unknown feature 'poled'; did you mean 'pooled'"),
        ({}, r"has several features \(dense, exact, pooled, tiny\); name one"),
        ({"feature": "pooled", "label": "lable"}, "unknown label column 'lable'; did you mean 'label'"),
    ],
)
def test_unknown_names(store, arguments, message):
    with pytest.raises(UnknownNameError, match=message):
        read_data(store, **arguments)


def test_a_store_with_one_feature_needs_no_name(tmp_path):
    stores.write_store(tmp_path, stores.StorePlan(records={"only": RECORDS["pooled"]}))
    assert read_data(tmp_path).feature == "only"


def test_a_store_whose_videos_all_failed(tmp_path):
    stores.write_store(
        tmp_path,
        stores.StorePlan(records={"only": RECORDS["pooled"]}, num_videos=2, failing={0: "timeout", 1: "timeout"}),
    )
    with pytest.raises(NothingUsableError, match=r"nothing was extracted into .*: all 2 videos failed, e.g. "):
        read_data(tmp_path)


def test_an_unlabelled_store_says_what_to_do(tmp_path, monkeypatch):
    plain = stores.make_videos
    monkeypatch.setattr(
        stores, "make_videos", lambda *a, **k: [dataclasses.replace(video, labels={}) for video in plain(*a, **k)]
    )
    stores.write_store(tmp_path, stores.StorePlan(records={"only": RECORDS["pooled"]}))
    with pytest.raises(ManifestError, match="has a label, so there is nothing to probe; put videos in one folder per"):
        read_data(tmp_path)


def test_an_unfinished_store_says_so(tmp_path):
    plan = stores.StorePlan(records={"only": RECORDS["pooled"]})
    with StoreWriter.open(tmp_path, sampling=SamplingRecipe()) as writer:
        writer.declare_feature("only", stores.make_recipe(), RECORDS["pooled"])
        generation = stores.add_generation(writer, plan)
        stores.commit(writer, generation, 0, plan)
    with pytest.raises(StoreError, match="still lacks 8 of 10 videos; run the command that fills it again"):
        read_data(tmp_path)
