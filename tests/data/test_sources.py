import json
import math
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featcache.data.manifest import Manifest, write_parquet
from featcache.data.selection import Selection, select
from featcache.data.sources import list_source
from featcache.data.types import VideoRecord
from featcache.errors import ManifestError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def listed(source: Path) -> list[tuple[str, str, dict[str, str], str]]:
    return [(video.id, video.path, dict(video.labels), video.split) for video in list_source(source).videos]


def test_a_folder_of_classes_is_labelled_by_the_files_own_folder(tmp_path):
    touch(tmp_path, "wave/b.MP4", "wave/a.avi", "sports/run/c d.webm", "loose.mkv", "wave/notes.txt")
    touch(tmp_path, ".cache/x.mp4", "wave/.hidden.mp4")
    assert listed(tmp_path) == [
        ("loose.mkv", "loose.mkv", {}, ""),
        ("sports/run/c d.webm", "sports/run/c d.webm", {"label": "run"}, ""),
        ("wave/a.avi", "wave/a.avi", {"label": "wave"}, ""),
        ("wave/b.MP4", "wave/b.MP4", {"label": "wave"}, ""),
    ]
    assert list_source(tmp_path).root == str(tmp_path)


def test_what_a_folder_holds_beside_videos_is_counted_by_kind(tmp_path):
    touch(tmp_path, "wave/a.mp4", "b.avi", "noext", "wave/noext", "a.mp4.part", "wave/.hidden.mp4", ".cache/x.mp4")
    touch(tmp_path, "a.gif", "wave/B.GIF", "notes.txt", "odd.m\x1b[31m", "v. A sentence with a dot")
    found = list_source(tmp_path)
    assert len(found) == 2
    assert found.left_out == {"no suffix": 2, "hidden": 2, ".gif": 2, "other suffix": 2, ".part": 1, ".txt": 1}
    assert select(found, Selection(split_column=None)).left_out == found.left_out
    assert list_source(tmp_path / "b.avi").left_out == {}


def test_trees_of_splits_give_splits(tmp_path):
    touch(tmp_path, "train/wave/a.mp4", "Train2/x.txt", "train/sports/run/b.mp4", "Validation/wave/c.mp4", "test/d.mp4")
    assert listed(tmp_path) == [
        ("Validation/wave/c.mp4", "Validation/wave/c.mp4", {"label": "wave"}, "val"),
        ("test/d.mp4", "test/d.mp4", {}, "test"),
        ("train/sports/run/b.mp4", "train/sports/run/b.mp4", {"label": "run"}, "train"),
        ("train/wave/a.mp4", "train/wave/a.mp4", {"label": "wave"}, "train"),
    ]


@pytest.mark.parametrize(
    "names",
    [
        ["train/a.mp4", "car/b.mp4"],
        ["train/wave/a.mp4", "test/wave/b.mp4", "loose.mp4"],
        ["train/wave/a.mp4", "training/wave/b.mp4"],
        ["test/wave/a.mp4", "val/wave/b.mp4"],
    ],
)
def test_classes_that_are_called_like_splits_are_classes(tmp_path, names):
    touch(tmp_path, *names)
    assert {row[3] for row in listed(tmp_path)} == {""}
    assert {row[0]: row[2].get("label", "") for row in listed(tmp_path)} == {
        name: name.split("/")[-2] if "/" in name else "" for name in names
    }


def test_the_column_group_is_a_label(tmp_path):
    (tmp_path / "a.csv").write_text("path,group\na.mp4,g1\n")
    (tmp_path / "a.jsonl").write_text('{"path": "a.mp4", "group": "g1"}')
    for name in ("a.csv", "a.jsonl"):
        assert listed(tmp_path / name) == [("a.mp4", "a.mp4", {"group": "g1"}, "")]


def test_a_flat_folder_is_unlabelled(tmp_path):
    touch(tmp_path, "b.mp4", "a.mp4")
    assert listed(tmp_path) == [("a.mp4", "a.mp4", {}, ""), ("b.mp4", "b.mp4", {}, "")]


def test_odd_file_names_get_usable_ids_and_keep_their_paths(tmp_path):
    names = ["new\nline.mp4", "back\\slash.mp4", "ünï.mp4", "quo'te\".mp4", os.fsdecode(b"caf\xe9.mp4")]
    touch(tmp_path, *(f"kl\udcff/{name}" for name in names))
    videos = list_source(tmp_path).videos
    assert {video.path for video in videos} == {f"kl\udcff/{name}" for name in names}
    assert {video.id for video in videos} == {
        f"kl%FF/{name}" for name in ["new%0Aline.mp4", "back%5Cslash.mp4", "ünï.mp4", "quo'te\".mp4", "caf%E9.mp4"]
    }
    assert {video.labels["label"] for video in videos} == {"kl%FF"}


def test_links_are_followed_and_circles_end(tmp_path):
    touch(tmp_path, "elsewhere/jump/a.mp4", "root/wave/b.mp4")
    (tmp_path / "root/jump").symlink_to(tmp_path / "elsewhere/jump")
    (tmp_path / "root/wave/again").symlink_to(tmp_path / "root")
    (tmp_path / "root/wave/dangling.mp4").symlink_to(tmp_path / "nowhere.mp4")
    assert [row[0] for row in listed(tmp_path / "root")] == ["jump/a.mp4", "wave/b.mp4", "wave/dangling.mp4"]


def test_a_folder_without_videos_is_an_error(tmp_path):
    touch(tmp_path, "a.txt", "class/.hidden.mp4")
    with pytest.raises(ManifestError, match=r"holds no video .*\.mp4.*; name another folder"):
        list_source(tmp_path)


def test_a_source_that_is_not_there_or_of_no_known_kind_is_an_error(tmp_path):
    with pytest.raises(ManifestError, match="does not exist; give a folder"):
        list_source(tmp_path / "none")
    touch(tmp_path, "list.txt")
    with pytest.raises(ManifestError, match=r"neither a folder nor a listing \(.csv, .jsonl, .parquet\)"):
        list_source(tmp_path / "list.txt")


def test_one_video_file_is_a_source(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    assert listed(tmp_path / "a.mp4") == [("a.mp4", "a.mp4", {}, "")]


ROWS = [
    {"id": "second", "path": "b, c.mp4", "split": "test", "label": "wave", "label.motion": None},
    {"id": None, "path": "sub/./a.mp4", "split": None, "label": None, "label.motion": "left"},
]
EXPECTED = [
    ("second", "b, c.mp4", {"label": "wave"}, "test"),
    ("sub/a.mp4", "sub/a.mp4", {"motion": "left"}, ""),
]


def test_listings_say_the_same_in_every_format(tmp_path):
    csv_text = 'id,path,split,label,label.motion,fps\nsecond,"b, c.mp4",test,wave,,30\n,sub/./a.mp4,,,left,25\n'
    (tmp_path / "list.csv").write_text(csv_text)
    (tmp_path / "bom.csv").write_text(csv_text, encoding="utf-8-sig")
    (tmp_path / "list.jsonl").write_text("\n\n".join(json.dumps({**row, "fps": [1]}) for row in ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "list.parquet")
    for name in ("list.csv", "bom.csv", "list.jsonl", "list.parquet"):
        assert listed(tmp_path / name) == EXPECTED, name


def test_numbers_are_labels_too(tmp_path):
    (tmp_path / "list.jsonl").write_text('{"path": "a.mp4", "label": 7}\n{"path": "b.mp4", "label": 0}\n')
    assert [row[2] for row in listed(tmp_path / "list.jsonl")] == [{"label": "7"}, {"label": "0"}]


def test_integral_floats_are_the_integers(tmp_path):
    """A column of class numbers is one of floats as soon as a cell is empty, in tables and in text."""
    pq.write_table(pa.table({"path": ["a", "b"], "label": [0, 1]}), tmp_path / "train.parquet")
    holed = pa.table({"path": ["a", "b", "c", "d"], "label": [0.0, 1.0, None, 0.5], "id": [7.0, None, None, None]})
    pq.write_table(holed, tmp_path / "val.parquet")
    (tmp_path / "val.csv").write_text("path,label,id\na,0.0,7\nb,1.0,\nc,,\nd,0.5,\n")
    lines = [{"path": "a", "label": 0.0, "id": 7.0}, {"path": "b", "label": "1.0"}, {"path": "c", "label": math.nan}]
    (tmp_path / "val.jsonl").write_text(
        "".join(f"{json.dumps(row)}\n" for row in [*lines, {"path": "d", "label": 0.5}])
    )
    assert [row[2] for row in listed(tmp_path / "train.parquet")] == [{"label": "0"}, {"label": "1"}]
    for name in ("val.parquet", "val.csv", "val.jsonl"):
        found = [(row[0], row[2]) for row in listed(tmp_path / name)]
        assert found == [("7", {"label": "0"}), ("b", {"label": "1"}), ("c", {}), ("d", {"label": "0.5"})], name


def test_text_that_is_no_integral_float_stays(tmp_path):
    texts = ["007.0", "1.00", "1.0.0", "v1.0", "1e3", ".0", "-0.0", "-3.0", "99999999999999999999.0"]
    (tmp_path / "a.csv").write_text("path,label\n" + "".join(f"{place},{text}\n" for place, text in enumerate(texts)))
    found = [row[2]["label"] for row in listed(tmp_path / "a.csv")]
    assert found == [*texts[:6], "0", "-3", "99999999999999999999"]


CLEAN = "path,split,label,label.verb\na b.mp4,train,air drumming,x\nc.mp4,,wave,\n"


@pytest.mark.parametrize(
    "text",
    [
        CLEAN.replace("\n", "\r\n"),
        CLEAN.replace("\n", "\r"),
        "\ufeff" + CLEAN,
        CLEAN.rstrip("\n"),
        "\n" + CLEAN + "\n  \n\t\n,,,\n",
        CLEAN.replace("\n", " \t\n"),
        CLEAN.replace(",", " ,  "),
        CLEAN.replace("air drumming", "air  drumming").replace("wave", "wave\t"),
        CLEAN.replace(",", ";"),
        CLEAN.replace(",", "\t"),
        CLEAN.replace("\n", ",,\n"),
        CLEAN.replace("wave,", "wave"),
    ],
)
def test_how_a_csv_was_saved_does_not_matter(tmp_path, text):
    (tmp_path / "clean.csv").write_text(CLEAN)
    (tmp_path / "list.csv").write_bytes(text.encode())
    assert listed(tmp_path / "list.csv") == listed(tmp_path / "clean.csv")
    assert len(listed(tmp_path / "clean.csv")) == 2


def test_how_a_jsonl_was_saved_does_not_matter(tmp_path):
    lines = [json.dumps({**row, "label": "  air \t drumming "}) for row in ROWS]
    (tmp_path / "list.jsonl").write_bytes("\ufeff{}\r\n \r\n{} \t\r\n\r\n".format(*lines).encode())
    found = listed(tmp_path / "list.jsonl")
    assert [row[2] for row in found] == [{"label": "air drumming"}, {"label": "air drumming", "motion": "left"}]


def test_utf16_is_told(tmp_path):
    for name in ("list.csv", "list.jsonl"):
        (tmp_path / name).write_text(CLEAN, encoding="utf-16")
        with pytest.raises(ManifestError, match=rf"{name} is UTF-16; save it as UTF-8"):
            list_source(tmp_path / name)


def test_paths_may_be_absolute_or_climb_and_ids_never_do(tmp_path):
    listing = tmp_path / "lists/list.csv"
    listing.parent.mkdir()
    listing.write_text(f"path\n../videos/a.mp4\n{tmp_path}/abs.mp4\nx/../b.mp4\n")
    assert sorted(row[1] for row in listed(listing)) == [f"{tmp_path}/abs.mp4", f"{tmp_path}/videos/a.mp4", "b.mp4"]
    assert {"videos/a.mp4", f"{tmp_path}/abs.mp4"[1:]} < {row[0] for row in listed(listing)}


def test_a_listing_may_name_a_file_that_is_not_utf8(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"path,label\ncaf\xe9.mp4,x\n")
    assert listed(tmp_path / "list.csv") == [("caf%E9.mp4", "caf\udce9.mp4", {"label": "x"}, "")]


def test_a_manifest_is_a_source(tmp_path):
    old = VideoRecord(id="x", path="a.mp4", labels={"k": "v"}, split="train", status="missing", reason="gone")
    write_parquet(Manifest(root="/data", videos=(old,)), tmp_path / "manifest.parquet")
    fresh = list_source(tmp_path / "manifest.parquet")
    assert fresh.root == "/data"
    assert fresh.videos == (VideoRecord(id="x", path="a.mp4", labels={"k": "v"}, split="train"),)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "has no column 'path' (it has none)"),
        ("a.csv", "video,label\na.mp4,x\n", "has no column 'path' (it has video, label)"),
        ("a.csv", "path,path\na.mp4,b.mp4\n", "has the column 'path' twice"),
        ("a.csv", "path\n", "has no row"),
        ("a.csv", "path,label\n,x\n", "line 2: no path"),
        ("a.csv", "path,label\na.mp4,x,y\n", "line 2: 3 cells for 2 columns; quote cells that hold ','"),
        ("a.csv", 'path\n"a.mp4\n', "unexpected end of data"),
        ("a.csv", "path\na.mp4\na.mp4\n", "'a.mp4' occurs twice"),
        ("a.csv", "id,path\nx,a.mp4\nx,b.mp4\n", "'x' occurs twice"),
        ("a.csv", "id,path\n../x,a.mp4\n", "'../x' has a path part '..'"),
        ("a.csv", b"path,label\na.mp4,caf\xe9\n", "line 2: column 'label' is not UTF-8"),
        ("a.jsonl", '{"path": "a.mp4"}\n{"path": ', "line 2: not JSON"),
        ("a.jsonl", '["a.mp4"]', "line 1: expected an object"),
        ("a.jsonl", '{"path": {"x": 1}}', "line 1: column 'path' holds dict"),
        ("a.jsonl", '{"path": "a\\u0000.mp4"}', "contains a NUL"),
        ("a.parquet", "PAR1", "is not a Parquet file"),
    ],
)
def test_a_listing_that_cannot_be_used_says_where(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ManifestError) as caught:
        list_source(tmp_path / name)
    assert message in str(caught.value)


def test_a_parquet_listing_needs_a_path_column(tmp_path):
    pq.write_table(pa.table({"file": ["a.mp4"]}), tmp_path / "list.parquet")
    with pytest.raises(ManifestError, match=r"no column 'path' \(it has file\)"):
        list_source(tmp_path / "list.parquet")


def test_a_folder_that_may_not_be_listed_stops_the_scan(tmp_path, monkeypatch):
    touch(tmp_path, "open/a.mp4", "locked/b.mp4")
    plain = Path.iterdir

    def iterdir(path: Path):
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(ManifestError, match=r"locked cannot be listed \(Permission denied\)"):
        list_source(tmp_path)
