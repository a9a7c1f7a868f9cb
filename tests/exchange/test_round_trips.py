"""What goes out comes back with every bit, in every format that comes back."""

import numpy as np
import pytest

from featcache.data.types import VideoOutcome, VideoRecord
from featcache.exchange.settings import IMPORTED
from featcache.recipes import SamplingRecipe
from featcache.store.plan import plan_segments
from featcache.store.reader import open_store
from featcache.store.rows import RowTable
from featcache.store.verify import verify
from featcache.store.writer import StoreWriter
from featcache.testing.stores import NUM_FRAMES, StorePlan, make_recipe, make_record, write_store
from tests.exchange.stores import BACK, assert_same, make_store, receive, send

RECORDS = {
    "float16": make_record((6,)),
    "float32": make_record((5,), "float32"),
    "int8": make_record((4,), "int8"),
    "map": make_record((2, 3, 4)),
    "dense": make_record((2, 3, 2, 4), "float32"),
    "tokens": make_record((3, 4)),
}


@pytest.mark.parametrize(
    ("format_", "kind"),
    [
        pytest.param(format_, kind, marks=[] if kind in ("float16", "dense") or format_ == "npy" else pytest.mark.slow)
        for format_ in BACK
        for kind in RECORDS
    ],
)
def test_every_bit_comes_back(tmp_path, format_, kind):
    mine = make_store(tmp_path / "mine", record=RECORDS[kind])
    sent = send(mine, tmp_path / "out", format_)
    assert (sent.num_videos, sent.num_failed, sent.num_rows) == (7, 2, 21)
    got = receive(tmp_path / "out", tmp_path / "theirs", BACK[format_])
    assert (got.videos_ok, got.videos_failed, got.rows_written, got.not_listed) == (5, 2, 21, 0)
    assert_same(mine, tmp_path / "theirs")
    assert verify(tmp_path / "theirs").ok


@pytest.mark.parametrize("format_", ["npy", "hf"])
def test_two_generations_and_a_recipe_of_our_own_come_back(tmp_path, format_):
    """A retried video has its rows in a later generation; a full sampling recipe stays what it was."""
    sampling = SamplingRecipe(num_clips=4, num_frames=NUM_FRAMES, seed=3, decoder="torchcodec")
    record = {"a": make_record((6,))}
    first = StorePlan(records=record, num_videos=6, failing={2: "timeout"})
    second = StorePlan(records=record, num_videos=5, first_video=2)
    write_store(tmp_path / "mine", first, second, sampling=sampling)
    send(tmp_path / "mine", tmp_path / "out", format_)
    receive(tmp_path / "out", tmp_path / "theirs", BACK[format_])
    mine, theirs = open_store(tmp_path / "mine"), open_store(tmp_path / "theirs")
    assert theirs.sampling == mine.sampling
    for video_id in mine.videos:
        assert mine.feature().video(video_id).tobytes() == theirs.feature().video(video_id).tobytes()
        assert mine.videos[video_id] == theirs.videos[video_id]


def odd_store(path):
    """Ids, labels and paths of all kinds, extreme values, and rows of which little is known."""
    values = np.array([[0.0, -0.0, 65504.0], [6e-8, -6e-8, 1.0], [np.pi, -1e-4, 2.0], [1, 2, 3]], np.float16)
    ids = ["a.b/c.mp4", "ünï çødé 'x' [1].webm", "a, b;c", '%41"q']
    labels = [{"label": "x, y", "verb": "a\nb"}, {"verb": "\udc80"}, {}, {"label": "0012"}]
    videos = [
        VideoRecord(
            id=name,
            path="\udcff.mp4" if not number else name,
            num_frames=7,
            fps=30000 / 1001,
            duration_seconds=0.1 + 0.2,
            pixel_aspect=16 / 11 if number == 1 else 1.0,
            transfer="pq" if number == 2 else "",
            labels=labels[number],
            split=["train", "", "val", "test"][number],
        )
        for number, name in enumerate(ids)
    ]
    segments, num_shards = plan_segments([1, 1, 1, 1], shard_rows=4)
    unknown = np.array([True, False, True, False])
    order = np.arange(4, dtype=np.int32)
    box = np.where(unknown, -1, 5).astype(np.int32)
    times = np.where(unknown, np.nan, 1 / 3)
    frames = np.where(unknown[:, None], -1, [[1, 2]]).astype(np.int32)
    table = RowTable(
        video=order, row=order, clip=np.zeros(4, np.int32), frames=frames,
        pts_seconds=np.where(frames < 0, np.nan, frames / 29.97), t0=times, t1=np.full(4, np.nan),
        y0=box, x0=box, y1=box + ~unknown, x1=box + ~unknown, flip=order == 3,
    )  # fmt: skip
    sampling = SamplingRecipe(temporal="imported", spatial="imported", num_frames=2)
    with StoreWriter.open(path, sampling=sampling) as writer:
        writer.declare_feature("a", make_recipe(weights_hash="unknown"), make_record((3,)))
        generation = writer.add_generation(videos, segments, num_shards, shard_rows=4, encode_batch=1, threads=1)
        outcomes = [
            VideoOutcome(id=name, status="ok", reason="", first_row=i, num_rows=1) for i, name in enumerate(ids)
        ]
        writer.commit_shard(
            generation,
            0,
            features={"a": values},
            present=np.ones(4, bool),
            rows=table,
            outcomes=outcomes,
            provenance={},
        )
    return path


@pytest.mark.parametrize("format_", BACK)
def test_odd_names_extreme_values_and_unknown_facts_come_back(tmp_path, format_):
    mine = odd_store(tmp_path / "mine")
    send(mine, tmp_path / "out", format_)
    receive(tmp_path / "out", tmp_path / "theirs", BACK[format_])
    assert_same(mine, tmp_path / "theirs")


@pytest.mark.parametrize("format_", BACK)
def test_a_part_of_a_store(tmp_path, format_):
    mine = make_store(tmp_path / "mine")
    sent = send(mine, tmp_path / "out", format_, split="train", videos=("v0001", "v0002", "v0005"))
    assert (sent.num_videos, sent.num_failed) == (3, 1)
    receive(tmp_path / "out", tmp_path / "theirs", BACK[format_])
    theirs = open_store(tmp_path / "theirs")
    assert list(theirs.videos) == ["v0001", "v0002", "v0005"]
    rows = open_store(mine).feature("a")
    assert theirs.feature("a").video("v0002").tobytes() == rows.video("v0002").tobytes()


@pytest.mark.parametrize("format_", BACK)
def test_long_videos_are_cut_into_the_same_rows(tmp_path, format_, monkeypatch):
    """Videos longer than a shard, pieces smaller than a video."""
    monkeypatch.setattr("featcache.exchange.parquet._CHUNK_BYTES", 60)
    monkeypatch.setattr("featcache.exchange.tables._PIECE_ROWS", 7)
    mine = make_store(tmp_path / "mine", rows_per_video=(3, 29), num_videos=3, shard_rows=8)
    send(mine, tmp_path / "out", format_)
    receive(tmp_path / "out", tmp_path / "theirs", BACK[format_], shard_rows=8)
    assert_same(mine, tmp_path / "theirs")


def test_what_nothing_is_known_of_says_so():
    assert IMPORTED.is_imported
    assert IMPORTED.decoder == "unknown"
