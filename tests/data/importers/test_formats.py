"""Traps of the official formats that the small sample of each data set does not hold."""

import json
import logging
import math
from pathlib import Path

import pytest

from featcache.data.importers import DATASETS, list_dataset, read_listing
from featcache.data.importers.files import DatasetFiles
from featcache.data.importers.lvu import MEAN_LIKE_RATIO, MEAN_LOG_VIEWS
from featcache.errors import ManifestError, UnknownNameError
from featcache.testing.datasets import SAMPLES, make_hmdb51, make_ucf101, put_list


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def rows(name: str, root: Path) -> dict[str, tuple[str, str, str]]:
    """Path (or status), label and split by id."""
    return {
        video.id: (video.path if video.status == "ok" else video.status, video.labels.get("label", ""), video.split)
        for video in list_dataset(name, root=root).videos
    }


def kinetics(root: Path, *lines: str, header: str = "label,youtube_id,time_start,time_end,split") -> None:
    put_list(root, "train.csv", [header, *lines])


# The registry


def test_every_data_set_has_a_sample():
    assert set(DATASETS.names()) == set(SAMPLES)


def test_unknown_names_and_folders_are_told(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'kinetics400'"):
        list_dataset("kinetics-400", root=tmp_path)
    with pytest.raises(ManifestError, match=r"is not a folder; give --root"):
        list_dataset("ucf101", root=tmp_path / "nowhere")


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_folder_without_lists_says_which_are_expected(tmp_path, name):
    touch(tmp_path, "videos/a.mp4")
    with pytest.raises(ManifestError, match=r"holds no '.*(txt|csv|json)'"):
        list_dataset(name, root=tmp_path)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_what_is_missing_or_unlisted_is_said(tmp_path, name, caplog):
    SAMPLES[name](tmp_path)
    with caplog.at_level(logging.WARNING, logger="featcache"):
        list_dataset(name, root=tmp_path)
    assert "missing" in caplog.text
    assert "1 video files are in no list" in caplog.text


def test_a_missing_file_is_named_by_its_official_place(tmp_path):
    make_ucf101(tmp_path)
    lost = [video for video in list_dataset("ucf101", root=tmp_path).videos if video.status == "missing"]
    assert [video.path for video in lost] == ["UCF-101/HandstandPushups/v_HandStandPushups_g03_c02.avi"]
    assert "v_HandStandPushups_g03_c02.avi" in lost[0].reason
    assert str(tmp_path) not in lost[0].reason


# Files


def test_hidden_files_links_and_folders_named_like_videos(tmp_path):
    touch(tmp_path, "a/x.mp4", "a/.y.mp4", "a/notes.md", "b.mp4/z.avi", "__MACOSX/._x.mp4")
    (tmp_path / "link").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self.mp4").symlink_to("self.mp4")
    files = DatasetFiles.under(tmp_path)
    assert files.videos == ("a/x.mp4", "b.mp4/z.avi", "link/x.mp4", "self.mp4")
    assert files.video("x") == "a/x.mp4"
    assert files.video("x", folders=["link"]) == "link/x.mp4"
    assert files.video("X") is None
    assert files.video("X", ignore_case=True) == "a/x.mp4"
    assert files.video("x", only_in="b.mp4") is None


def test_an_unreadable_folder_is_an_error(tmp_path, monkeypatch):
    touch(tmp_path, "a/x.mp4")
    import featcache.data.importers.files as module

    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.os, "scandir", refuse)
    with pytest.raises(ManifestError, match="cannot be listed"):
        DatasetFiles.under(tmp_path)


# UCF101


def test_ucf101_without_class_index_and_with_one_split(tmp_path):
    put_list(
        tmp_path, "split/trainlist01.txt", ["Archery/v_Archery_g08_c01.avi 1  ", "", "Rope Climb/v_R_g08_c01.avi 2"]
    )
    put_list(tmp_path, "split/testlist01.txt", ["Archery/v_Archery_g01_c01.avi"], end="\r\n")
    touch(
        tmp_path, "video/Archery/v_Archery_g08_c01.mp4", "video/Archery/V_ARCHERY_G01_C01.AVI", "video/v_R_g08_c01.avi"
    )
    assert rows("ucf101", tmp_path) == {
        "v_Archery_g08_c01": ("video/Archery/v_Archery_g08_c01.mp4", "Archery", "train"),
        "v_R_g08_c01": ("video/v_R_g08_c01.avi", "Rope Climb", "train"),
        "v_Archery_g01_c01": ("video/Archery/V_ARCHERY_G01_C01.AVI", "Archery", "test"),
    }
    with pytest.raises(UnknownNameError, match="ucf101 here has: split1"):
        list_dataset("ucf101", root=tmp_path, split_column="split2")


def test_ucf101_labels_follow_the_class_index_where_folders_differ_in_case(tmp_path):
    put_list(tmp_path, "classInd.txt", ["1 HandstandPushups"], end="\r\n")
    put_list(tmp_path, "trainlist01.txt", ["HandStandPushups/v_HandStandPushups_g08_c01.avi 1"])
    put_list(tmp_path, "testlist01.txt", ["HandstandPushups/v_HandstandPushups_g01_c01.avi"])
    touch(tmp_path, "v_HandstandPushups_g08_c01.avi")
    manifest = list_dataset("ucf101", root=tmp_path)
    assert {video.labels["label"] for video in manifest.videos} == {"HandstandPushups"}
    assert [video.status for video in manifest.videos] == ["ok", "missing"]


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("trainlist01.txt", ["v_Archery_g08_c01.avi 1"], r"trainlist01.txt, line 1: .* is no <Class>/<file>"),
        ("trainlist01.txt", ["Archey/v_Archery_g08_c01.avi 1"], "line 1: class 'Archey' is not in classInd.txt"),
        ("trainlist01.txt", ["../../etc/v_x.avi 1"], "class '../../etc' is not in classInd"),
        ("classInd.txt", ["Archery"], "'Archery' is no <number> <Class>"),
        ("testlist01.txt", ["Archery/v_Archery_g08_c01.avi"], "is in the train and the test list of split 1"),
    ],
)
def test_ucf101_rows_that_cannot_be_used_are_named(tmp_path, name, lines, message):
    put_list(tmp_path, "classInd.txt", ["1 Archery"])
    put_list(tmp_path, "trainlist01.txt", ["Archery/v_Archery_g08_c01.avi 1"])
    put_list(tmp_path, "testlist01.txt", ["Archery/v_Archery_g01_c01.avi"])
    put_list(tmp_path, name, lines)
    with pytest.raises(ManifestError, match=message):
        list_dataset("ucf101", root=tmp_path)


def test_a_list_of_half_a_split_and_two_copies_of_a_list_are_errors(tmp_path):
    put_list(tmp_path, "trainlist01.txt", ["Archery/v_Archery_g08_c01.avi 1"])
    with pytest.raises(ManifestError, match=r"holds no 'testlist01.txt'"):
        list_dataset("ucf101", root=tmp_path)
    put_list(tmp_path, "testlist01.txt", ["Archery/v_Archery_g01_c01.avi"])
    put_list(tmp_path, "copy/testlist01.txt", ["Archery/v_Archery_g02_c01.avi"])
    with pytest.raises(ManifestError, match=r"'testlist01.txt' twice, at 'copy/testlist01.txt' and 'testlist01.txt'"):
        list_dataset("ucf101", root=tmp_path)


def test_a_list_that_points_out_of_the_root_is_refused(tmp_path):
    put_list(tmp_path, "trainlist01.txt", ["../../secret/v_a_g01_c01.avi 1"])
    put_list(tmp_path, "testlist01.txt", ["/etc/v_b_g01_c01.avi"])
    with pytest.raises(ManifestError, match="leaves the manifest's root"):
        list_dataset("ucf101", root=tmp_path)


# HMDB51


def test_hmdb51_does_not_take_the_file_of_another_class(tmp_path):
    sample = make_hmdb51(tmp_path)
    listed = {video.id: video for video in list_dataset("hmdb51", root=sample.root).videos}
    assert listed["brush_hair/same_name"].path == "videos/brush_hair/same_name.avi"
    assert listed["wave/same_name"].status == "missing"


def test_hmdb51_unused_clips_are_in_no_split(tmp_path):
    make_hmdb51(tmp_path)
    videos = list_dataset("hmdb51", root=tmp_path).videos
    assert [video.split for video in videos] == ["train", "", "test", "train", "test"]
    assert ["split1" in video.labels for video in videos] == [True, False, True, True, True]


def test_hmdb51_lines_may_hold_tabs_and_names_spaces(tmp_path):
    put_list(tmp_path, "wave_test_split1.txt", ["a b_wave_f_0.avi\t2\t", "c_wave_f_0.avi  1 "], end="\r\n")
    touch(tmp_path, "hmdb51_org/wave/a b_wave_f_0.avi")
    assert rows("hmdb51", tmp_path) == {
        "wave/a b_wave_f_0": ("hmdb51_org/wave/a b_wave_f_0.avi", "wave", "test"),
        "wave/c_wave_f_0": ("missing", "wave", "train"),
    }


@pytest.mark.parametrize("line", ["a.avi", "a.avi 3", "a.avi one", " 1"])
def test_hmdb51_rows_that_cannot_be_used_are_named(tmp_path, line):
    put_list(tmp_path, "wave_test_split1.txt", ["ok.avi 1 ", line])
    with pytest.raises(ManifestError, match=r"wave_test_split1.txt, line 2: .* is no <file> followed by 0, 1 or 2"):
        list_dataset("hmdb51", root=tmp_path)


# Kinetics


@pytest.mark.parametrize(
    "path",
    [
        "train/air drumming/-dbcJuKJQNs_000040_000050.mp4",
        "train/air_drumming/-dbcJuKJQNs_000040_000050.webm",
        "train_video/air_drumming/-dbcJuKJQNs_000040_000050.mp4",
        "air drumming/-dbcJuKJQNs_000040_000050.avi",
        "train/-dbcJuKJQNs_000040_000050.mkv",
        "-dbcJuKJQNs_000040_000050.mp4",
        "train/air drumming/-dbcJuKJQNs.mp4",
    ],
)
@pytest.mark.parametrize("label", ['"air drumming"', "air drumming", "air_drumming", ' "air drumming"'])
def test_kinetics_in_every_packing(tmp_path, path, label):
    kinetics(tmp_path, f"{label},-dbcJuKJQNs,40,50,train")
    touch(tmp_path, path)
    assert rows("kinetics600", tmp_path) == {"-dbcJuKJQNs_000040_000050": (path, "air drumming", "train")}


@pytest.mark.parametrize(
    "name", ["train.csv", "kinetics-400_train.csv", "annotations/kinetics_700_train.csv", "K/TRAIN.CSV"]
)
def test_kinetics_lists_have_many_names(tmp_path, name):
    put_list(tmp_path, name, ["label,youtube_id,time_start,time_end,split", "a,aaaaaaaaaaa,0,10,train"], end="\r\n")
    assert rows("kinetics700", tmp_path) == {"aaaaaaaaaaa_000000_000010": ("missing", "a", "train")}


def test_kinetics_without_a_split_column_goes_by_the_list(tmp_path):
    put_list(tmp_path, "val.csv", ["\ufefflabel,youtube_id,time_start,time_end", "a,aaaaaaaaaaa,0.0,10.0", ",,,"])
    assert rows("kinetics400", tmp_path) == {"aaaaaaaaaaa_000000_000010": ("missing", "a", "val")}


def test_kinetics_prefers_the_folder_of_label_and_split(tmp_path):
    clip = "aaaaaaaaaaa_000000_000010.mp4"
    kinetics(tmp_path, "riding a bike,aaaaaaaaaaa,0,10,train")
    touch(
        tmp_path,
        f"all/{clip}",
        f"kinetics_400_train/riding_a_bike/{clip}",
        f"val/riding a bike/{clip}",
        f"train/z/{clip}",
    )
    listing = read_listing("kinetics400", root=tmp_path)
    assert listing.manifest.videos[0].path == f"kinetics_400_train/riding_a_bike/{clip}"
    assert len(listing.unlisted) == 3


def test_kinetics_replacements_go_before_the_broken_file(tmp_path, caplog):
    clip = "-3B32lodo2M_000059_000069.mp4"
    kinetics(tmp_path, "abseiling,-3B32lodo2M,59,69,train,0", header="label,youtube_id,time_start,time_end,split,is_cc")
    touch(tmp_path, f"train/abseiling/{clip}", f"replacement/replacement_for_corrupted_k400/{clip}")
    with caplog.at_level(logging.WARNING, logger="featcache"):
        (video,) = list_dataset("kinetics400", root=tmp_path).videos
    assert video.path == f"replacement/replacement_for_corrupted_k400/{clip}"
    assert (video.labels["label"], video.split) == ("abseiling", "train")
    assert "or are other copies of a listed one" in caplog.text


def test_kinetics_clips_of_one_video_do_not_share_a_file_named_by_the_video(tmp_path):
    kinetics(tmp_path, "a,aaaaaaaaaaa,0,10,train", "b,aaaaaaaaaaa,20,30,train", "b,aaaaaaaaaaa,20,30,train")
    touch(tmp_path, "aaaaaaaaaaa.mp4", "aaaaaaaaaaa_000020_000030.mp4")
    found = rows("kinetics700", tmp_path)
    assert found == {
        "aaaaaaaaaaa_000000_000010": ("missing", "a", "train"),
        "aaaaaaaaaaa_000020_000030": ("aaaaaaaaaaa_000020_000030.mp4", "b", "train"),
    }


def test_youtube_ids_differ_in_case(tmp_path):
    kinetics(tmp_path, "a,AAAAAAAAAAA,0,10,train")
    touch(tmp_path, "aaaaaaaaaaa_000000_000010.mp4")
    assert rows("kinetics400", tmp_path)["AAAAAAAAAAA_000000_000010"][0] == "missing"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a,aaaaaaaaaaa,zero,10,train"], "line 2: times 'zero' and '10' are no numbers"),
        (["a,aaaaaaaaaaa,0,10,holdout"], "line 2: split 'holdout' is none of"),
        (["a,b,aaaaaaaaaaa,0,10,train"], "line 2: 6 cells for 5 columns"),
        (["a,aaaaaaaaaaa,0,10,train", "b,aaaaaaaaaaa,0,10,train"], "line 3: clip .* was listed before"),
        (['"a,aaaaaaaaaaa,0,10,train'], "line 2: unexpected end of data"),
        (["a,../aaaaaaaa,0,10,train"], "part '..'"),
    ],
)
def test_kinetics_rows_that_cannot_be_used_are_named(tmp_path, lines, message):
    kinetics(tmp_path, *lines)
    with pytest.raises(ManifestError, match=message):
        list_dataset("kinetics400", root=tmp_path)


def test_kinetics_needs_its_columns(tmp_path):
    kinetics(tmp_path, "a,b", header="label,id")
    with pytest.raises(ManifestError, match="has no column 'youtube_id'"):
        list_dataset("kinetics400", root=tmp_path)


# Something-Something v2


def ssv2(root: Path, train: object, labels: object = None) -> None:
    put_list(root, "labels.json", [json.dumps({"Holding something": "0"} if labels is None else labels)])
    put_list(root, "train.json", [json.dumps(train)])


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([{"id": "1", "template": "Holding [nothing]"}], r"row 0: template 'Holding \[nothing\]' of clip '1'"),
        ([{"template": "Holding [something]"}], "row 0: it has no id"),
        ([{"id": "../1", "template": "Holding [something]"}], "part '..'"),
        ({"id": "1"}, "is not a list of clips"),
    ],
)
def test_ssv2_rows_that_cannot_be_used_are_named(tmp_path, train, message):
    ssv2(tmp_path, train)
    with pytest.raises(ManifestError, match=message):
        list_dataset("ssv2", root=tmp_path)


def test_ssv2_numbers_as_ids_short_list_names_and_mp4(tmp_path):
    ssv2(tmp_path, [{"id": 7, "label": "holding x", "template": "Holding [something]"}])
    touch(tmp_path, "videos/7.mp4", "videos/70.mp4")
    assert rows("ssv2", tmp_path) == {"7": ("videos/7.mp4", "Holding something", "train")}


def test_ssv2_answers_with_blanks_around_their_cells(tmp_path):
    ssv2(tmp_path, [])
    put_list(tmp_path, "test.json", ['[{"id": "5"}]'])
    put_list(tmp_path, "test-answers.csv", ["5 ;  Holding  [something] \t"], end="\r\n")
    assert rows("ssv2", tmp_path) == {"5": ("missing", "Holding something", "test")}


def test_ssv2_answers_may_have_a_header_and_must_be_classes(tmp_path):
    ssv2(tmp_path, [])
    put_list(tmp_path, "test.json", ['[{"id": "5"}]'])
    put_list(tmp_path, "test-answers.csv", ["id;label", "5;Holding [something]"])
    assert rows("ssv2", tmp_path) == {"5": ("missing", "Holding something", "test")}
    put_list(tmp_path, "test-answers.csv", ["5;Dropping something"])
    with pytest.raises(ManifestError, match=r"line 1: class 'Dropping something' is not in labels.json"):
        list_dataset("ssv2", root=tmp_path)


def test_broken_json_is_named(tmp_path):
    put_list(tmp_path, "labels.json", ['{"a": '])
    with pytest.raises(ManifestError, match=r"labels.json is not JSON"):
        list_dataset("ssv2", root=tmp_path)


# Diving48


def test_diving48_versions_do_not_mix(tmp_path):
    SAMPLES["diving48"](tmp_path)
    with pytest.raises(ManifestError, match=r"holds no 'Diving48_train.json'"):
        list_dataset("diving48-v1", root=tmp_path)
    SAMPLES["diving48-v1"](tmp_path)
    assert list_dataset("diving48", root=tmp_path).videos == list_dataset("diving48-v1", root=tmp_path).videos


@pytest.mark.parametrize("label", [3, -1, "0", 1.5])
def test_diving48_labels_are_classes_of_the_vocabulary(tmp_path, label):
    SAMPLES["diving48"](tmp_path)
    put_list(tmp_path, "Diving48_V2_test.json", [json.dumps([{"vid_name": "z_0", "label": label}])])
    with pytest.raises(ManifestError, match=r"row 0: label .* is not one of the 3 classes"):
        list_dataset("diving48", root=tmp_path)


# LVU


def test_lvu_targets_are_those_of_the_published_code(tmp_path):
    put_list(tmp_path, "view_count/train.csv", ["view_count youtube_id imdb_id", "128500 aaaaaaaaaaa tt1", "0 b tt2"])
    put_list(tmp_path, "like_ratio/test.csv", ["likes dislikes youtube_id imdb_id", "90 10 aaaaaaaaaaa tt1"])
    first, second = list_dataset("lvu", root=tmp_path).videos
    assert float(first.labels["view_count"]) == pytest.approx(math.log(128500) - 11.76425435683139, abs=1e-15)
    assert float(first.labels["like_ratio"]) == pytest.approx(9.0 - 9.138220535629456, abs=1e-15)
    assert (MEAN_LOG_VIEWS, MEAN_LIKE_RATIO) == (11.76425435683139, 9.138220535629456)
    assert dict(second.labels) == {"group": "tt2", "split_view_count": "train"}
    assert (first.split, second.split) == ("", "")


@pytest.mark.parametrize(
    ("task", "lines", "message"),
    [
        ("scene", ["0 office"], "line 2: '0 office' has 2 cells, too few for the task scene"),
        ("view_count", ["many a tt1"], "'many' are no counts"),
        ("view_count", ["-1 a tt1"], "'-1' are no counts"),
    ],
)
def test_lvu_rows_that_cannot_be_used_are_named(tmp_path, task, lines, message):
    put_list(tmp_path, f"{task}/val.csv", ["header", *lines])
    with pytest.raises(ManifestError, match=message):
        list_dataset("lvu", root=tmp_path)


def test_lvu_video_in_two_splits_of_one_task_is_refused(tmp_path):
    for split in ("train", "test"):
        put_list(tmp_path, f"scene/{split}.csv", ["header", "0 office aaaaaaaaaaa tt1"])
    with pytest.raises(ManifestError, match="'aaaaaaaaaaa' is in the train and the test list"):
        list_dataset("lvu", root=tmp_path)
