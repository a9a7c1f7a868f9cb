"""Datasets over real stores, in this process and in workers."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from featcache.errors import ManifestError, UnknownNameError
from featcache.loaders.dataset import to_device, torch_dataset
from featcache.store.reader import open_store
from featcache.testing import stores

RECORDS = {"pooled": stores.make_record((6,)), "tiny": stores.make_record((2, 6), "int8")}
PLAN = stores.StorePlan(records=RECORDS, num_videos=12, rows_per_video=(3, 2), failing={5: "timeout"})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("dataset") / "store"
    stores.write_store(path, PLAN)
    return open_store(path)


def test_rows_and_labels(store):
    features, labels = store.feature("pooled"), store.labels()
    dataset = torch_dataset(features, labels)
    assert len(dataset) == features.num_rows
    assert dataset.classes == ("a", "b")
    assert dataset.missing == ("v0005",)
    for row in (0, 7, features.num_rows - 1):
        values, label = dataset[row]
        assert values.dtype == torch.float32
        np.testing.assert_array_equal(values.numpy(), features[row].astype(np.float32))
        assert dataset.classes[label] == labels[features.video_ids[features.video_index[row]]]


def test_videos_of_a_split(store):
    features = store.feature("tiny")
    dataset = torch_dataset(features, store.labels(split="test"), classes=("b", "a"), by="video")
    assert dataset.video_ids == ("v0000", "v0003", "v0006", "v0009")
    values, label = dataset[1]
    assert values.shape == (2, 2, 6)
    assert dataset.classes[label] == "b"
    np.testing.assert_array_equal(values.numpy(), features.gather(features.rows_of("v0003"), dequantised=True))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("workers", [(0, None), (2, "fork"), (1, "spawn")], ids=["none", "fork", "spawn"])
def test_loading(store, workers):
    features = store.feature("pooled")
    dataset = torch_dataset(features, store.labels())
    expected = features.gather(np.arange(features.num_rows), dequantised=True)
    loader = DataLoader(dataset, batch_size=5, num_workers=workers[0], multiprocessing_context=workers[1])
    batches = list(loader)
    np.testing.assert_array_equal(torch.cat([values for values, _ in batches]).numpy(), expected)
    assert torch.cat([labels for _, labels in batches]).tolist() == [dataset[row][1] for row in range(len(dataset))]


def test_wrong_labels(store):
    features = store.feature("pooled")
    with pytest.raises(UnknownNameError, match="unknown class 'b'"):
        torch_dataset(features, store.labels(), classes=("a",))
    with pytest.raises(ManifestError, match="none of the 1 labelled videos has rows"):
        torch_dataset(features, {"v0005": "a"})


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_one_tensor(store, name, dtype, monkeypatch):
    monkeypatch.setattr("featcache.loaders.dataset.BYTES_AT_ONCE", 50)
    features = store.feature(name)
    table = to_device(features, "cpu", dtype=dtype)
    assert table.dtype == dtype
    expected = features.gather(np.arange(features.num_rows), dequantised=True)
    torch.testing.assert_close(table, torch.from_numpy(expected).to(dtype), rtol=0, atol=0)
