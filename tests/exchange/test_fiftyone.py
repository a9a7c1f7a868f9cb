"""The files of format ``fiftyone``, and the loop that makes a dataset of them, with a stand-in for the library."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from featcache.errors import ExchangeError, FeatcacheError
from featcache.exchange import fiftyone
from featcache.store.reader import open_store
from featcache.testing.stores import make_record
from tests.exchange.stores import make_store, send


@pytest.fixture
def exported(tmp_path):
    make_store(tmp_path / "mine")
    send(tmp_path / "mine", tmp_path / "out", "fiftyone")
    return tmp_path


def test_the_files_say_who_is_where(exported):
    samples, embeddings = fiftyone.read(exported / "out")
    plain = np.load(exported / "out" / "embeddings.npy", allow_pickle=False)
    store = open_store(exported / "mine")
    with store.feature() as features:
        assert embeddings.tobytes() == plain.tobytes()
        assert [sample["id"] for sample in samples] == list(store.videos)
        for sample in samples:
            video = store.videos[sample["id"]]
            first, last = sample["rows"]
            if sample["status"] == "ok":
                assert embeddings[first:last].tobytes() == features.video(video.id).tobytes()
                assert sample["tags"] == [video.split]
                assert len(sample["seconds"]) == last - first
            else:
                assert (first == last, sample["tags"]) == (True, [video.split, "failed"])
            assert sample["labels"] == dict(video.labels)


def test_int8_and_dense(tmp_path):
    mine = make_store(tmp_path / "mine", record=make_record((4,), "int8"))
    send(mine, tmp_path / "out", "fiftyone")
    with open_store(mine).feature() as features:
        _, embeddings = fiftyone.read(tmp_path / "out")
        assert embeddings.tobytes() == features.gather(np.arange(features.num_rows), dequantised=True).tobytes()
    dense = make_store(tmp_path / "dense", record=make_record((2, 4)))
    with pytest.raises(ExchangeError, match="embeddings are vectors"):
        send(dense, tmp_path / "out2", "fiftyone")


def test_parts_that_do_not_fit_are_refused(exported):
    path = exported / "out" / "samples.json"
    document = json.loads(path.read_text())
    document["samples"].pop()
    path.write_text(json.dumps(document))
    with pytest.raises(ExchangeError, match="do not fit each other"):
        fiftyone.read(exported / "out")
    with pytest.raises(ExchangeError, match="not an export in format fiftyone"):
        fiftyone.read(exported / "mine")


def test_without_the_library_it_says_how_to_get_it(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(FeatcacheError, match=r"pip install 'featcache\[fiftyone\]'"):
        fiftyone.load(exported / "out", videos="videos")


def test_a_dataset_of_samples(exported, monkeypatch):
    """What the library is asked for: a sample a video with path, tags, labels and the mean of its rows."""

    class Dataset:
        def __init__(self, name):
            self.name, self.samples = name, []

        def add_samples(self, samples):
            self.samples += samples

    def sample(**fields):
        return SimpleNamespace(**fields)

    def classification(*, label):
        return ("class", label)

    library = SimpleNamespace(Dataset=Dataset, Sample=sample, Classification=classification)
    monkeypatch.setattr(fiftyone, "optional", lambda module, *, extra: library)
    made = fiftyone.load(exported / "out", videos="videos", name="mine")
    store = open_store(exported / "mine")
    assert made.name == "mine"
    assert [one.video_id for one in made.samples] == list(store.videos)
    first = made.samples[0]
    assert first.filepath == "videos/v0000.mp4"
    assert first.label == ("class", "a")
    with store.feature() as features:
        mean = features.video("v0000").astype(np.float32).mean(axis=0)
        assert first.embedding.tobytes() == mean.tobytes()
    assert not hasattr(made.samples[3], "embedding")


def test_fields_of_labels():
    assert [fiftyone.label_field(name) for name in ("label", "verb", "tags", "a.b c")] == [
        "label",
        "label_verb",
        "label_tags",
        "label_a_b_c",
    ]
