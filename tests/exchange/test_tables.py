"""Saved datasets and Parquet files that others made, and what others find in ours."""

import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featcache.errors import ExchangeError, UnknownNameError
from featcache.store.reader import open_store
from featcache.testing.stores import make_record
from tests.exchange.stores import bring, make_store, send

VECTORS = np.arange(12, dtype=np.float32).reshape(6, 2) / 7


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()


def lists(values, kind):
    return pa.array([row.tolist() for row in values], kind)


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 2), pa.list_(pa.float16())]
)
def test_rows_of_a_video_need_not_be_neighbours(tmp_path, kind):
    """Rows go by the column ``clip``, wherever they stand; other columns are left alone."""
    table = pa.table(
        {
            "name": ["b", "a", "b", "a", "b", "a"],
            "clip": [2, 0, 0, 1, 1, 2],
            "emb": lists(VECTORS, kind),
            "label": ["y", "x", "y", "x", "y", "x"],
            "note": [1, 2, 3, 4, 5, 6],
            "t0": [2.0, 0.0, 0.0, None, 1.0, 2.0],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=2)
    got = bring(tmp_path / "in.parquet", tmp_path / "s", "hf", columns={"id": "name", "array": "emb"})
    dtype = np.float16 if kind == pa.list_(pa.float16()) else np.float32
    assert got.dtype == np.dtype(dtype).name
    store = open_store(tmp_path / "s")
    assert store.labels() == {"b": "y", "a": "x"}
    with store.feature() as features:
        assert features.video("b").tobytes() == VECTORS[[2, 4, 0]].astype(dtype).tobytes()
        assert features.video("a").tobytes() == VECTORS[[1, 3, 5]].astype(dtype).tobytes()
        assert features.rows.t0[:3].tolist() == [0, 1, 2]
        assert np.isnan(features.rows.t0[4])


def test_integral_floats_are_the_integers(tmp_path):
    """Ids and labels that were integers before a cell was empty."""
    columns = {"id": [7.0, 8.0, 9.0], "label": [1.0, None, 2.0], "feature": lists(VECTORS[:3], pa.list_(pa.float32()))}
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    bring(tmp_path / "in.parquet", tmp_path / "s", "hf")
    store = open_store(tmp_path / "s")
    assert (list(store.videos), store.labels()) == (["7", "8", "9"], {"7": "1", "9": "2"})


def test_entries_that_hold_whole_videos(tmp_path):
    """Rows per video differ; a null entry is a video without an array."""
    videos = [VECTORS[:4].tolist(), None, VECTORS[4:].tolist()]
    made = datasets.Dataset.from_dict(
        {"id": ["a", "b", "c"], "feature": videos, "fps": [25.0, 25.0, 25.0]},
        features=datasets.Features(
            {
                "id": datasets.Value("string"),
                "feature": datasets.Array2D((None, 2), "float32"),
                "fps": datasets.Value("float64"),
            }
        ),
    )
    made.save_to_disk(str(tmp_path / "in"))
    columns = {"array_is": "video"}
    got = bring(tmp_path / "in", tmp_path / "s", "hf", columns=columns, timing={"stride_frames": 5})
    assert got.failures == (("b", "missing", "there is no array for it"),)
    with open_store(tmp_path / "s").feature() as features:
        assert features.video("a").tobytes() == VECTORS[:4].tobytes()
        assert features.video("c").tobytes() == VECTORS[4:].tobytes()
        assert features.rows.t0.tolist() == [0, 0.2, 0.4, 0.6, 0, 0.2]


def test_splits_of_a_saved_dictionary_are_splits(tmp_path):
    parts = {
        split: datasets.Dataset.from_dict({"id": [f"{split}{n}" for n in range(3)], "feature": VECTORS[:3].tolist()})
        for split in ("train", "test")
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "in"))
    bring(tmp_path / "in", tmp_path / "s", "hf", feature={"backbone": "x", "precision": "float32"})
    store = open_store(tmp_path / "s")
    assert store.video_ids(split="test") == ["test0", "test1", "test2"]
    with store.feature() as features:
        assert features[:3].tobytes() == VECTORS[:3].tobytes()


def parquet(tmp_path, **columns):
    columns = {"id": ["a", "b"], "feature": VECTORS[:2].tolist(), **columns}
    pq.write_table(pa.table({name: column for name, column in columns.items() if column}), tmp_path / "in.parquet")
    return tmp_path / "in.parquet"


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"id": None, "ids": ["a", "b"]}, UnknownNameError, "unknown column of .*'id'; did you mean 'ids'"),
        ({"feature": [[1.0], [1.0, 2.0]]}, ExchangeError, "lists of 1 and of 2 entries.*array_is"),
        ({"feature": [[1.0], None]}, ExchangeError, "empty entries"),
        ({"feature": [["x"], ["y"]]}, ExchangeError, "holds string"),
        ({"feature": [[1], [2]]}, ExchangeError, "holds int64"),
        ({"id": ["a", None]}, ExchangeError, "a row has no 'id'"),
        ({"id": ["a", "a"], "label": ["x", "y"]}, ExchangeError, "rows of one video have labels"),
        ({"id": ["a", "a"], "clip": [1, 1]}, ExchangeError, "two rows have the same clip"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, columns, error, message):
    with pytest.raises(error, match=message):
        bring(parquet(tmp_path, **columns), tmp_path / "s", "hf", feature={"backbone": "x", "precision": "float32"})


def test_damaged_and_absent_tables(tmp_path):
    path = parquet(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ExchangeError, match=r"in\.parquet is not a Parquet file, or a damaged one"):
        bring(path, tmp_path / "s", "hf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExchangeError, match="neither a saved dataset nor a Parquet file"):
        bring(tmp_path / "empty", tmp_path / "s", "hf")


def test_what_others_find_in_our_parquet(tmp_path):
    """Vectors are fixed-size lists of the stored dtype, maps tensors with named axes; the recipe is in the metadata."""
    mine = make_store(tmp_path / "mine", record=make_record((2, 3, 4)))
    send(mine, tmp_path / "out", "parquet")
    table = pq.ParquetFile(tmp_path / "out" / "features.parquet").read(use_threads=False)
    kind = table.schema.field("feature").type
    assert isinstance(kind, pa.FixedShapeTensorType)
    assert (kind.shape, kind.dim_names, kind.value_type) == ([2, 3, 4], ["h", "w", "c"], pa.float16())
    with open_store(mine).feature() as features:
        found = table.column("feature").combine_chunks().to_numpy_ndarray()
        assert found.tobytes() == features[:].tobytes()
        assert table.column("t0").to_pylist() == features.rows.t0.tolist()
        assert table.column("id").to_pylist() == [features.video_ids[number] for number in features.video_index]
    about = json.loads(table.schema.metadata[b"featcache"])
    assert about["feature"]["weights_hash"] == "sha256:0"
    assert about["record"]["axes"] == ["h", "w", "c"]


def test_what_others_find_in_our_dataset(tmp_path):
    mine = make_store(tmp_path / "mine")
    send(mine, tmp_path / "out", "hf")
    found = datasets.load_from_disk(str(tmp_path / "out")).with_format("numpy", dtype=np.float16, columns=["feature"])
    with open_store(mine).feature() as features:
        assert found["feature"][:].dtype == np.float16
        assert np.asarray(found["feature"][:]).tobytes() == features[:].tobytes()
        found.reset_format()
        assert list(found["clip"]) == features.rows.clip.tolist()
        assert list(found["t1"]) == features.rows.t1.tolist()
    assert not list((tmp_path / "out").glob(".*"))
