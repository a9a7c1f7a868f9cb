"""Small data sets: trees in the official layout with real encoded videos, and requirements for every importer.

A :class:`Sample` describes the output of a generator and the expected result of an importer. A package that offers a
data set writes a generator and runs the whole suite with::

    from featcache.testing.datasets import DatasetTests, Row, Sample, put_list, put_video

    class TestMine(DatasetTests):
        names = ("my-dataset",)

        def make_sample(self, name, root):
            ...

Each tree has a listed video without a file and a file that no list names.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from featcache.data.importers import DATASETS, DatasetFiles, read_listing
from featcache.data.importers.diving48 import PARTS
from featcache.data.importers.lvu import CLASSIFICATION, MEAN_LIKE_RATIO, MEAN_LOG_VIEWS
from featcache.data.manifest import Manifest, read_parquet, write_parquet
from featcache.data.scan import scan_file
from featcache.data.types import VideoRecord
from featcache.errors import UnknownNameError
from featcache.testing.videos import write_video

NUM_FRAMES = 6
_ENCODERS = {".avi": "mpeg4", ".mp4": "libx264", ".webm": "libvpx-vp9"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The expected row of one video.

    Attributes:
        labels: All label columns.
        split: Default split.
        path: File of the video, relative to the root; ``None`` if it is missing.
    """

    labels: Mapping[str, str]
    split: str = ""
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A small data set on disk.

    Attributes:
        name: Registry name.
        root: Folder of the data set.
        rows: Rows by id, in the order of the lists.
        unlisted: Files that no list names.
    """

    name: str
    root: Path
    rows: Mapping[str, Row]
    unlisted: frozenset[str] = field(default_factory=frozenset)


def put_video(root: Path, path: str) -> str:
    """Put a real video of ``NUM_FRAMES`` frames at a path below ``root``; returns the path."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(_encoded(target.suffix))
    return path


def put_list(root: Path, path: str, lines: Iterable[str], *, end: str = "\n") -> None:
    """Write a text list below ``root``."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes("".join(f"{line}{end}" for line in lines).encode())


def put_json(root: Path, path: str, data: object) -> None:
    """Write a JSON list below ``root``."""
    put_list(root, path, [json.dumps(data)])


@cache
def _encoded(suffix: str) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"video{suffix}"
        write_video(path, num_frames=NUM_FRAMES, codec=_ENCODERS[suffix], width=64, height=48)
        return path.read_bytes()


# Generators


def make_ucf101(root: Path) -> Sample:
    """Two classes of three groups; folder and files differ in case; Windows line ends; one clip missing."""
    classes = {"ApplyEyeMakeup": "ApplyEyeMakeup", "HandstandPushups": "HandStandPushups"}
    rows: dict[str, Row] = {}
    lists: dict[tuple[int, str], list[str]] = {(n, split): [] for n, split in product((1, 2, 3), ("train", "test"))}
    for number, (folder, name) in enumerate(classes.items(), start=1):
        for group, clip in product((1, 2, 3), (1, 2)):
            stem = f"v_{name}_g{group:02d}_c{clip:02d}"
            labels = {"label": folder, "group": f"v_{name}_g{group:02d}"}
            for split in (1, 2, 3):
                side = "test" if group == split else "train"
                labels[f"split{split}"] = side
                lists[split, side].append(f"{folder}/{stem}.avi" + (f" {number}" if side == "train" else ""))
            lost = (folder, group, clip) == ("HandstandPushups", 3, 2)
            path = None if lost else put_video(root, f"UCF-101/{folder}/{stem}.avi")
            rows[stem] = Row(labels=labels, split=labels["split1"], path=path)
    for (split, side), lines in lists.items():
        put_list(root, f"ucfTrainTestlist/{side}list0{split}.txt", lines, end="\r\n")
    indices = [f"{number} {name}" for number, name in enumerate(classes, start=1)]
    put_list(root, "ucfTrainTestlist/classInd.txt", indices, end="\r\n")
    extra = put_video(root, "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g09_c01.avi")
    ordered = sorted(rows, key=lambda stem: rows[stem].split == "test")
    return Sample(name="ucf101", root=root, rows={stem: rows[stem] for stem in ordered}, unlisted=frozenset({extra}))


def make_hmdb51(root: Path) -> Sample:
    """Odd names, a clip in no split, two classes with a file of one name, lines that end in a space."""
    files = {
        "brush_hair": ["a#1_brush_hair_u_nm_np1_ba_goo_0", "b!&(c)[d]_brush_hair_h_cm_np1_fr_med_1", "same_name"],
        "wave": ["x;y=@_wave_f_nm_np1_ri_med_0", "same_name"],
    }
    kinds = {1: "10212", 2: "21012", 3: "01222"}
    names = {"0": None, "1": "train", "2": "test"}
    rows: dict[str, Row] = {}
    lists: dict[tuple[str, int], list[str]] = {}
    for position, (label, stem) in enumerate((label, stem) for label, stems in files.items() for stem in stems):
        group, found, _ = stem.partition(f"_{label}_")
        labels = {"label": label, "group": group if found else stem}
        for split, dealt in kinds.items():
            lists.setdefault((label, split), []).append(f"{stem}.avi {dealt[position]} ")
            if side := names[dealt[position]]:
                labels[f"split{split}"] = side
        lost = (label, stem) == ("wave", "same_name")
        path = None if lost else put_video(root, f"videos/{label}/{stem}.avi")
        rows[f"{label}/{stem}"] = Row(labels=labels, split=labels.get("split1", ""), path=path)
    for (label, split), lines in lists.items():
        put_list(root, f"testTrainMulti_7030_splits/{label}_test_split{split}.txt", lines)
    extra = put_video(root, "videos/wave/unheard_of_wave_f_nm_np1_ri_med_0.avi")
    return Sample(name="hmdb51", root=root, rows=rows, unlisted=frozenset({extra}))


def make_kinetics(root: Path, *, name: str = "kinetics400") -> Sample:
    """Quoted labels, ids that begin with ``-``, labels in folders with underscores, a test list without labels."""
    rows: dict[str, Row] = {}
    lines: dict[str, list[str]] = {}
    for split, label, youtube_id, start, lost in (
        ("train", "air drumming", "-dbcJuKJQNs", 40, False),
        ("train", "abseiling", "_4YTwq0-73Y", 3, False),
        ("train", "abseiling", "lostlostlos", 8, True),
        ("val", "air drumming", "0KbfOuDy3MU", 12, False),
        ("test", "", "--fake-id-0", 100, False),
    ):
        clip = f"{youtube_id}_{start:06d}_{start + 10:06d}"
        folder = f"{split}/{label.replace(' ', '_')}" if label else split
        quoted = f'"{label}",' if " " in label else f"{label}," if label else ""
        said = "validate" if split == "val" else split
        lines.setdefault(split, []).append(f"{quoted}{youtube_id},{start},{start + 10},{said},0")
        labels = {"label": label, "group": youtube_id} if label else {"group": youtube_id}
        rows[clip] = Row(labels=labels, split=split, path=None if lost else put_video(root, f"{folder}/{clip}.mp4"))
    for split, of_split in lines.items():
        header = f"{'' if split == 'test' else 'label,'}youtube_id,time_start,time_end,split,is_cc"
        put_list(root, f"annotations/{'validate' if split == 'val' else split}.csv", [header, *of_split])
    extra = put_video(root, "train/abseiling/unlisted000_000000_000010.mp4")
    return Sample(name=name, root=root, rows=rows, unlisted=frozenset({extra}))


def make_ssv2(root: Path) -> Sample:
    """Templates with brackets, captions that are not classes, a test list of ids, its answers in another file."""
    template = "Putting [something] on [something]"
    classes = {"Putting something on something": "0", "Holding something": "1"}
    put_json(root, "labels/something-something-v2-labels.json", classes)
    train = [
        {"id": "78687", "label": "putting a cup on a table", "template": template, "placeholders": ["cup", "table"]},
        {"id": "3", "label": "holding a pen", "template": "Holding [something]", "placeholders": ["a pen"]},
    ]
    validation = [{"id": "74225", "label": "holding it", "template": "Holding [something]", "placeholders": ["it"]}]
    put_json(root, "labels/something-something-v2-train.json", train)
    put_json(root, "labels/something-something-v2-validation.json", validation)
    put_json(root, "labels/something-something-v2-test.json", [{"id": "5"}, {"id": "6"}])
    put_list(root, "labels/something-something-v2-test-answers.csv", ["5;Holding something"])
    rows: dict[str, Row] = {}
    for split, listed in (("train", train), ("val", validation)):
        for row in listed:
            label = str(row["template"]).replace("[", "").replace("]", "")
            path = None if row["id"] == "3" else put_video(root, f"20bn-something-something-v2/{row['id']}.webm")
            rows[str(row["id"])] = Row(labels={"label": label, "caption": str(row["label"])}, split=split, path=path)
    for video_id, labels in (("5", {"label": "Holding something"}), ("6", {})):
        path = put_video(root, f"20bn-something-something-v2/{video_id}.webm")
        rows[video_id] = Row(labels=labels, split="test", path=path)
    extra = put_video(root, "20bn-something-something-v2/999.webm")
    return Sample(name="ssv2", root=root, rows=rows, unlisted=frozenset({extra}))


def make_diving48(root: Path, *, name: str = "diving48") -> Sample:
    """Ids that begin with ``-`` and labels that are numbers into a vocabulary."""
    vocabulary = [["Back", "15som", "05Twis", "FREE"], ["Back", "15som", "15Twis", "FREE"], ["Inward", "15som", "NoTwis", "PIKE"]]  # fmt: skip  # noqa: E501
    version = "_V2" if name == "diving48" else ""
    put_json(root, "Diving48_vocab.json", vocabulary)
    rows: dict[str, Row] = {}
    for split, listed in (
        ("train", [("-mmq0PT-u8k_00155", 0), ("-mmq0PT-u8k_00156", 2), ("abc_d_00001", 1)]),
        ("test", [("zzz_00000", 2)]),
    ):
        data = [{"vid_name": stem, "label": label, "start_frame": 0, "end_frame": 48} for stem, label in listed]
        put_json(root, f"Diving48{version}_{split}.json", data)
        for stem, label in listed:
            parts = dict(zip(PARTS, vocabulary[label], strict=True))
            labels = {"label": "_".join(vocabulary[label]), "group": stem.rpartition("_")[0], **parts}
            path = None if stem == "abc_d_00001" else put_video(root, f"rgb/{stem}.mp4")
            rows[stem] = Row(labels=labels, split=split, path=path)
    extra = put_video(root, "rgb/unlisted_00001.mp4")
    return Sample(name=name, root=root, rows=rows, unlisted=frozenset({extra}))


def make_lvu(root: Path) -> Sample:
    r"""Nine tasks with splits of their own, ids with gaps, a class named ``\N``, one class name for two ids."""
    films = {"-aaaaaaaaaa": "tt0000001", "bbbbbbbbbbb": "tt0000002", "ccccccccccc": "tt0000002"}
    sides = ("train", "val", "test")
    names = {"writer": ["0 \\N", "2 nm02", "9 nm09"], "director": ["0 nm1", "4 nm1", "9 nm2"], "year": ["8 2010"] * 3}
    meant = {"writer": ["class_0", "nm02", "nm09"], "director": ["class_0", "class_4", "nm2"], "year": ["2010"] * 3}
    labels: dict[str, dict[str, str]] = {video: {"group": film} for video, film in films.items()}
    for place, task in enumerate((*CLASSIFICATION, "like_ratio", "view_count")):
        for position, (video, film) in enumerate(films.items()):
            side = sides[(place + position) % 3]
            labels[video][f"split_{task}"] = side
            if task == "like_ratio":
                header, text = "like_count dislike_count", f"{9 * position} {position}"
                label = repr(10 * 0.9 - MEAN_LIKE_RATIO) if position else None  # without votes there is no ratio
            elif task == "view_count":
                header, text = "view_count", f"{1000 + position}"
                label = repr(math.log(1000 + position) - MEAN_LOG_VIEWS)
            else:
                header, text = "class_id class_name", names.get(task, ["0 a", "1 b c", "3 d"])[position]
                label = meant.get(task, ["a", "b c", "d"])[position]
            if label is not None:
                labels[video][task] = label
            lines = [f"{header} youtube_id imdb_id", f"{text} {video} {film}"]
            put_list(root, f"lvu_1.0/{task}/{side}.csv", lines, end="\r\n")
    lost = "ccccccccccc"
    paths = {video: None if video == lost else put_video(root, f"videos/{video}.mp4") for video in films}
    first = labels["-aaaaaaaaaa"]["split_relationship"]
    assert first == "train", "the first task lists its training video first"
    rows = {video: Row(labels=labels[video], path=paths[video]) for video in films}
    extra = put_video(root, "videos/ddddddddddd.mp4")
    return Sample(name="lvu", root=root, rows=rows, unlisted=frozenset({extra}))


SAMPLES: Mapping[str, Callable[[Path], Sample]] = {
    "ucf101": make_ucf101,
    "hmdb51": make_hmdb51,
    "kinetics400": make_kinetics,
    "kinetics600": lambda root: make_kinetics(root, name="kinetics600"),
    "kinetics700": lambda root: make_kinetics(root, name="kinetics700"),
    "ssv2": make_ssv2,
    "diving48": make_diving48,
    "diving48-v1": lambda root: make_diving48(root, name="diving48-v1"),
    "lvu": make_lvu,
}
"""A generator for each registered data set: ``SAMPLES[name](folder)``."""


# Checks


def every_listed_video_is_a_row(sample: Sample) -> None:
    """Exactly the videos that the lists name are rows, in their order."""
    listed = [video.id for video in read_listing(sample.name, root=sample.root).manifest.videos]
    assert listed == list(sample.rows), f"{sample.name} lists {listed}, the lists name {list(sample.rows)}"


def labels_and_splits_are_the_official_ones(sample: Sample) -> None:
    """Label columns and the default split are exactly those of the lists."""
    for video in read_listing(sample.name, root=sample.root).manifest.videos:
        row = sample.rows[video.id]
        assert dict(video.labels) == dict(row.labels), f"{video.id} has labels {video.labels}, expected {row.labels}"
        assert video.split == row.split, f"{video.id} is in split {video.split!r}, expected {row.split!r}"


def every_official_split_can_be_chosen(sample: Sample) -> None:
    """A split column becomes the split; one that does not exist is refused."""
    for column in DATASETS.load(sample.name).split_columns:
        manifest = read_listing(sample.name, root=sample.root, split_column=column).manifest
        for video in manifest.videos:
            assert video.split == sample.rows[video.id].labels.get(column, ""), f"{video.id} ignores {column}"
    try:
        read_listing(sample.name, root=sample.root, split_column="split9")
    except UnknownNameError:
        return
    raise AssertionError(f"{sample.name} takes 'split9' for a split")


def missing_files_are_rows_with_a_reason(sample: Sample) -> None:
    """A video without a file has the status and a reason; the others have the path of their own file."""
    for video in read_listing(sample.name, root=sample.root).manifest.videos:
        expected = sample.rows[video.id].path
        if expected is None:
            assert video.status == "missing", f"{video.id} has no file and status {video.status!r}"
            assert video.reason, f"{video.id} is missing without a reason"
            assert not (sample.root / video.path).exists(), f"{video.id} is missing, yet {video.path!r} is there"
        else:
            assert (video.status, video.path) == ("ok", expected), f"{video.id} is {video.status} at {video.path!r}"


def unlisted_files_are_told_and_not_taken(sample: Sample) -> None:
    """Files that no list names are counted."""
    unlisted = set(read_listing(sample.name, root=sample.root).unlisted)
    assert unlisted == sample.unlisted, f"{sample.name} tells {unlisted} as unlisted, expected {sample.unlisted}"


def no_path_leaves_the_root(sample: Sample) -> None:
    """Rows and unlisted files lie below the root."""
    listing = read_listing(sample.name, root=sample.root)
    for path in [*(video.path for video in listing.manifest.videos), *listing.unlisted]:
        assert not Path(path).is_absolute(), f"{path!r} is absolute"
        assert ".." not in Path(path).parts, f"{path!r} leaves the root"


def a_second_listing_is_equal(sample: Sample) -> None:
    """The same files give the same rows, in whatever order the file system lists them."""
    first = read_listing(sample.name, root=sample.root)
    assert read_listing(sample.name, root=sample.root) == first, f"{sample.name} lists otherwise the second time"
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        for path in sorted((path for path in sample.root.rglob("*") if path.is_file()), reverse=True):
            target = copy / path.relative_to(sample.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        again = read_listing(sample.name, root=copy)
    assert again.manifest.videos == first.manifest.videos, f"{sample.name} depends on the order of the files"


def another_suffix_is_found(sample: Sample) -> None:
    """Videos that were re-encoded into another container count as the same videos."""
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(sample.root, copy)
        for path in DatasetFiles.under(copy).videos:
            (copy / path).rename((copy / path).with_suffix(".mkv"))
        listed = {video.id: video for video in read_listing(sample.name, root=copy).manifest.videos}
    for video_id, row in sample.rows.items():
        found = listed[video_id]
        assert (found.status == "ok") == (row.path is not None), f"{video_id} is {found.status} with the suffix .mkv"
        assert found.labels == row.labels, f"{video_id} has other labels with the suffix .mkv"


def white_space_in_lists_changes_nothing(sample: Sample) -> None:
    """Line ends, a byte order mark, blank lines, tabs and double blanks give the same rows."""
    listed = read_listing(sample.name, root=sample.root).manifest.videos
    files = DatasetFiles.under(sample.root)
    for what, change in _WHITE_SPACE.items():
        with TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            for path in files.videos:
                (copy / path).parent.mkdir(parents=True, exist_ok=True)
                (copy / path).touch()
            for path in files.lists:
                text = (sample.root / path).read_text(encoding="utf-8")
                is_json = path.endswith(".json")
                (copy / path).parent.mkdir(parents=True, exist_ok=True)
                (copy / path).write_bytes((text if is_json and "blank" in what else change(text)).encode())
            found = read_listing(sample.name, root=copy).manifest.videos
        assert found == listed, f"{sample.name} lists other rows with {what}"


_WHITE_SPACE: dict[str, Callable[[str], str]] = {
    "Windows line ends": lambda text: "\r\n".join(text.splitlines()) + "\r\n",
    "a byte order mark": lambda text: "\ufeff" + text,
    "no line end at the end": lambda text: text.rstrip("\n"),
    "empty lines": lambda text: text + "\n  \t\n\n",
    "blanks at line ends": lambda text: "".join(f"{line} \t \n" for line in text.splitlines()),
    "double blanks": lambda text: text.replace(" ", "  "),
    "blanks that are tabs": lambda text: text.replace(" ", "\t"),
}


def a_manifest_keeps_every_row(sample: Sample) -> None:
    """Rows stay the same when scanned, written and read again, and existing files have their frames."""
    listed = read_listing(sample.name, root=sample.root).manifest
    scanned = [video if video.status != "ok" else _scanned(video, listed.path_of(video)) for video in listed.videos]
    manifest = Manifest(root=listed.root, videos=tuple(scanned))
    with TemporaryDirectory() as folder:
        write_parquet(manifest, Path(folder) / "videos.parquet")
        assert read_parquet(Path(folder) / "videos.parquet") == manifest, f"{sample.name} changes when it is written"
    for video in manifest.videos:
        row = sample.rows[video.id]
        assert dict(video.labels) == dict(row.labels), f"{video.id} has lost labels in the scan"
        expected = ("missing", 0) if row.path is None else ("ok", NUM_FRAMES)
        assert (video.status, video.num_frames) == expected, f"{video.id} is {video.status} ({video.reason})"


def _scanned(video: VideoRecord, path: Path) -> VideoRecord:
    *_, record = scan_file(video, path)
    return record


CHECKS: tuple[Callable[[Sample], None], ...] = (
    every_listed_video_is_a_row,
    labels_and_splits_are_the_official_ones,
    every_official_split_can_be_chosen,
    missing_files_are_rows_with_a_reason,
    unlisted_files_are_told_and_not_taken,
    no_path_leaves_the_root,
    a_second_listing_is_equal,
    another_suffix_is_found,
    white_space_in_lists_changes_nothing,
    a_manifest_keeps_every_row,
)
"""Every check of the suite."""


class DatasetTests:
    """Test class of pytest for some data sets; inherit from it, name them and define how to make a small one.

    Attributes:
        names: Registry names.
    """

    names: Sequence[str] = ()

    def make_sample(self, name: str, root: Path) -> Sample:
        """Write a small data set below an empty folder, and return the expected result of its importer."""
        return SAMPLES[name](root)

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """One test for each data set and check."""
        metafunc.parametrize("check", CHECKS, ids=[check.__name__ for check in CHECKS])
        metafunc.parametrize("name", self.names)

    def test_conforms(self, name: str, check: Callable[[Sample], None], tmp_path: Path) -> None:
        """The importer passes the check."""
        check(self.make_sample(name, tmp_path))
