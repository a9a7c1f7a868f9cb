import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.data.manifest import (
    Manifest,
    default_id,
    id_problem,
    is_manifest,
    label_column,
    label_name,
    read_parquet,
    table_to_videos,
    videos_to_table,
    write_parquet,
)
from featcache.data.types import STATUSES, VideoRecord
from featcache.errors import ManifestError

# Any file name that a POSIX system can give: bytes without NUL, as Python decodes them.
file_names = (
    st.binary(min_size=1, max_size=12).filter(lambda raw: b"\0" not in raw and b"/" not in raw).map(os.fsdecode)
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | file_names
records = st.builds(
    VideoRecord,
    id=st.text(
        st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters="\\/:"), min_size=1, max_size=9
    ).map(lambda name: f"clips/{name}.mp4"),
    path=file_names.filter(lambda name: name != ".."),
    num_bytes=st.integers(0, 2**62),
    content_hash=st.sampled_from(["", "sha256:00ff"]),
    num_frames=st.integers(0, 10**9),
    fps=st.floats(0, 1e6),
    duration_seconds=st.floats(0, 1e9),
    height=st.integers(0, 10**5),
    width=st.integers(0, 10**5),
    codec=st.sampled_from(["", "h264"]),
    pixel_aspect=st.just(1.0) | st.floats(0.1, 10),
    transfer=st.sampled_from(["", "", "pq", "hlg"]),
    labels=st.dictionaries(st.sampled_from(["label", "picture", "a.b", "ü", "label.x"]), texts, max_size=3),
    split=texts,
    status=st.sampled_from(STATUSES),
    reason=texts,
)
manifests = st.builds(
    lambda root, videos: Manifest(root=root, videos=tuple(videos)),
    st.just("/data") | file_names,
    st.lists(records, max_size=6, unique_by=lambda video: video.id),
)


def video(video_id: str, **changes: object) -> VideoRecord:
    return VideoRecord(**{"id": video_id, "path": "a.mp4", **changes})


@given(manifests)
def test_parquet_round_trip_is_exact(tmp_path_factory, manifest: Manifest):
    path = tmp_path_factory.mktemp("manifest") / "manifest.parquet"
    write_parquet(manifest, path)
    assert read_parquet(path) == manifest
    assert is_manifest(path)


@given(st.lists(records, max_size=6))
def test_tables_hold_valid_utf8_and_come_back(videos: list[VideoRecord]):
    table = videos_to_table(videos)
    table.validate(full=True)
    assert table_to_videos(table) == tuple(videos)
    assert table_to_videos(table.append_column("more", pa.array([1] * len(videos), pa.int8()))) == tuple(videos)


def test_columns_are_plain_to_other_readers():
    odd = video("a", path="dir/caf\udce9\\x.mp4", labels={"label": "wave", "picture": "moon"})
    table = videos_to_table([odd, video("b", labels={"picture": ""})])
    assert table["label"].to_pylist() == ["wave", None]
    assert table["label.picture"].to_pylist() == ["moon", ""], "an empty label is a label, a missing one is null"
    assert table["path"].to_pylist() == ["dir/caf\\xe9\\\\x.mp4", "a.mp4"]
    assert table.schema.field("num_frames").type == pa.int64()
    assert table.schema.field("duration_seconds").type == pa.float64()


@pytest.mark.parametrize(("name", "column"), [("label", "label"), ("motion", "label.motion"), ("a.b", "label.a.b")])
def test_label_columns(name, column):
    assert label_column(name) == column
    assert label_name(column) == name


@pytest.mark.parametrize("column", ["labels", "path", "label."])
def test_other_columns_are_no_labels(column):
    assert label_name(column) is None


@pytest.mark.parametrize(
    "video_id",
    ["", "/a", "C:/a", "a/../b", "..", "./a", "a//b", "a/", "a\\b", "a\nb", "a\0", "a\x7f", "a\u2028b", "caf\udce9"],
)
def test_unusable_ids_are_refused_by_name(video_id):
    with pytest.raises(ManifestError) as caught:
        Manifest(root="/data", videos=(video(video_id),))
    assert repr(video_id) in str(caught.value)
    assert "rename the file or give it an id" in str(caught.value)


@pytest.mark.parametrize("video_id", ["a", "dir/a b.mp4", "日本/ö'\".mp4", "..a", "a..b/…", "x:y", "a\u200db", "%2e"])
def test_usable_ids_are_taken(video_id):
    assert Manifest(root="/data", videos=(video(video_id),)).videos[0].id == video_id


def test_duplicate_ids_are_refused():
    with pytest.raises(ManifestError, match=r"'a' occurs twice; remove one or give each an id"):
        Manifest(root="/data", videos=(video("a"), video("b"), video("a")))


@pytest.mark.parametrize("path", ["", "../a.mp4", "b/../../a.mp4", "a\0b", "\ud800"])
def test_paths_stay_inside_the_root(path):
    with pytest.raises(ManifestError, match=r"of video 'v'"):
        Manifest(root="/data", videos=(video("v", path=path),))


def test_paths_are_relative_to_the_root_or_absolute():
    manifest = Manifest(root="/data", videos=(video("a", path="x/a.mp4"), video("b", path="/other/b.mp4")))
    assert [manifest.path_of(one) for one in manifest.videos] == [Path("/data/x/a.mp4"), Path("/other/b.mp4")]


@pytest.mark.parametrize("name", ["", "a\nb", "\udce9"])
def test_unusable_label_names_are_refused(name):
    with pytest.raises(ManifestError, match="label name"):
        Manifest(root="/data", videos=(video("v", labels={name: "x"}),))


def test_summary_counts_every_video():
    manifest = Manifest(
        root="/data",
        videos=(
            video("a", split="train", labels={"label": "x"}, num_frames=3, duration_seconds=1.5, num_bytes=10),
            video("b", split="test", labels={"label": "y", "k": "z"}, status="missing", reason="gone"),
            video("c", split="train", labels={"label": "x"}, num_frames=2, duration_seconds=1.0, num_bytes=5),
        ),
    )
    summary = manifest.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["num_videos"] == len(manifest) == sum(summary["status"].values()) == 3
    assert summary["status"]["missing"] == 1
    assert set(summary["status"]) == set(STATUSES)
    assert summary["splits"] == {"test": 1, "train": 2}
    assert summary["labels"] == {"label": 2, "k": 1}
    assert (summary["num_frames"], summary["duration_seconds"], summary["num_bytes"]) == (5, 2.5, 15)
    assert [one.id for one in manifest.select(split="train", status="ok").videos] == ["a", "c"]
    assert [one.id for one in manifest.select(status="missing").videos] == ["b"]


@given(st.binary(min_size=1, max_size=20).filter(lambda raw: b"\0" not in raw).map(os.fsdecode))
def test_every_file_name_has_a_usable_default_id(path):
    video_id = default_id(path)
    assert not video_id or id_problem(video_id) is None
    if id_problem(path) is None:
        assert video_id == path


def test_default_ids():
    assert default_id("../up/./a b.mp4") == "up/a b.mp4"
    assert default_id("/abs/ü.mp4") == "abs/ü.mp4"
    assert default_id("x/caf\udce9\n\\.mp4") == "x/caf%E9%0A%5C.mp4"


def test_reading_something_else_is_explained(tmp_path):
    with pytest.raises(ManifestError, match="does not exist"):
        read_parquet(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(ManifestError, match="not a Parquet file"):
        read_parquet(tmp_path / "text.parquet")
    pq.write_table(pa.table({"path": ["a"]}), tmp_path / "listing.parquet")
    with pytest.raises(ManifestError, match="no manifest"):
        read_parquet(tmp_path / "listing.parquet")
    assert not is_manifest(tmp_path / "listing.parquet")
    assert not is_manifest(tmp_path / "text.parquet")
    assert not is_manifest(tmp_path / "none.parquet")


def test_a_newer_manifest_is_refused(tmp_path):
    table = videos_to_table([video("a")]).replace_schema_metadata({"featcache.manifest": '{"version": 2, "root": "/"}'})
    pq.write_table(table, tmp_path / "new.parquet")
    with pytest.raises(ManifestError, match="version 2, this featcache reads 1; upgrade"):
        read_parquet(tmp_path / "new.parquet")


def test_a_table_of_another_shape_is_refused():
    table = videos_to_table([video("a")])
    with pytest.raises(ManifestError, match="no column 'width'"):
        table_to_videos(table.drop_columns(["width"]))
    column = table.column_names.index("status")
    with pytest.raises(ManifestError, match="video 'a' has status 'lost'"):
        table_to_videos(table.set_column(column, "status", pa.array(["lost"])))


# Columns that only some tables have

USUAL = (
    *("id", "path", "content_hash", "codec", "split", "status", "reason", "num_bytes", "num_frames", "height", "width"),
    *("fps", "duration_seconds", "start_seconds"),
)


def test_ordinary_videos_give_the_table_that_they_always_gave():
    table = videos_to_table([video("a", labels={"label": "x"}), video("b", status="missing", reason="gone")])
    assert table.column_names == [*USUAL, "label"]


@pytest.mark.parametrize(("field", "value", "usual"), [("pixel_aspect", 0.5, 1.0), ("transfer", "pq", "")])
def test_a_table_has_a_rare_column_only_if_a_video_needs_it(field, value, usual):
    videos = (video("a"), video("b", **{field: value}))
    table = videos_to_table(videos)
    assert set(table.column_names) == {*USUAL, field}
    assert table_to_videos(table) == videos
    older = table_to_videos(table.drop_columns([field]))
    assert [getattr(one, field) for one in older] == [usual, usual]


def test_content_under_two_names_is_counted_once_a_name():
    one, other = "sha256:01", "sha256:02"
    manifest = Manifest(
        root="/data",
        videos=(
            video("a", content_hash=one),
            video("b", content_hash=other),
            video("c", content_hash=one),
            video("d", content_hash=one),
            video("e", content_hash=""),
            video("f", content_hash=""),
            video("g", content_hash=other, status="undecodable", reason="broken"),
        ),
    )
    assert manifest.same_content == (("c", "a"), ("d", "a"))
    assert manifest.summary()["num_same_content"] == 2


def test_what_was_left_out_is_no_part_of_what_is_written(tmp_path):
    manifest = Manifest(root="/data", videos=(video("a"),), left_out={".gif": 2})
    assert manifest.summary()["left_out"] == {".gif": 2}
    write_parquet(manifest, tmp_path / "a.parquet")
    write_parquet(Manifest(root="/data", videos=(video("a"),)), tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert read_parquet(tmp_path / "a.parquet") == manifest
