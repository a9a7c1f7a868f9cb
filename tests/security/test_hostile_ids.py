"""An id of a store becomes a file name when the store is exported: none reaches outside the export's folder."""

import re
import shutil
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from featcache.data.manifest import id_problem
from featcache.errors import CorruptStoreError, FeatcacheError
from featcache.exchange.exporting import export
from featcache.exchange.outgoing import choose
from featcache.exchange.settings import ExportSettings
from featcache.files.places import safe_join
from featcache.recipes import SamplingRecipe
from featcache.store.generation import check_ids
from featcache.store.reader import open_store
from featcache.store.verify import verify
from featcache.testing.stores import StorePlan, make_record, write_store
from tests.security.hostile import read_plan_table, rename_videos, replace_table

FORMATS = ["npy", "webdataset", "parquet", "hf", "fiftyone", "actionformer", "opentad"]
BANK = SamplingRecipe(layout="frames", temporal="bank", num_frames=1)


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    path = tmp_path_factory.mktemp("bank") / "s"
    write_store(path, StorePlan(records={"a": make_record((4,))}, num_videos=3), sampling=BANK)
    return path


@pytest.fixture
def place(tmp_path, bank):
    """A folder with a victim, and a copy of the store."""
    (tmp_path / "victim").mkdir()
    for name in ("settings.npy", "settings.json"):
        (tmp_path / "victim" / name).write_text("precious")
    shutil.copytree(bank, tmp_path / "work" / "store")
    return tmp_path


def listing(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "work" not in path.parts}


def hostile_ids(place):
    return [str(place / "victim" / "settings"), "../../victim/settings", "../x", "a/../../victim/settings", "a\\..\\b"]


@pytest.mark.parametrize("format_", FORMATS)
def test_a_store_with_ids_that_lead_outside_is_refused_by_every_export(place, format_):
    store = place / "work" / "store"
    before = listing(place)
    for name in hostile_ids(place):
        rename_videos(store, {"v0001": name})
        settings = ExportSettings(store=str(store), out=str(place / "work" / "out"), format=format_)
        with pytest.raises(CorruptStoreError, match=r"has the id .*the store was tampered with"):
            export(settings)
        rename_videos(store, {name: "v0001"})
        assert not (place / "work" / "out").exists()
    assert listing(place) == before


@pytest.mark.parametrize("format_", FORMATS)
def test_the_writers_themselves_stay_inside(place, format_, monkeypatch):
    """Were the ids not checked when the store is read, no writer would leave its folder all the same."""
    store = place / "work" / "store"
    before = listing(place)

    def with_hostile_ids(store, settings):
        out = choose(store, settings)
        renamed = {video.id: name for video, name in zip(out.videos, hostile_ids(place), strict=False)}
        videos = tuple(replace(video, id=renamed[video.id]) for video in out.videos)
        places = {renamed[name]: where for name, where in out.places.items()}
        return replace(out, videos=videos, places=places)

    monkeypatch.setattr("featcache.exchange.exporting.choose", with_hostile_ids)
    settings = ExportSettings(store=str(store), out=str(place / "work" / "out"), format=format_)
    if format_ in ("npy", "actionformer", "opentad"):  # the formats with a file a video
        with pytest.raises(FeatcacheError, match="not a plain relative path"):
            export(settings)
    else:
        export(settings)
    assert listing(place) == before


@pytest.mark.parametrize("name", ["", "/etc/passwd", "..", "a/../b", "a\nb", "\x1b[2Ja", "C:/x", "a//b", "v0000"])
def test_ids_are_checked_by_whoever_reads_them(place, name):
    store = place / "work" / "store"
    rename_videos(store, {"v0001": name})
    for read in (lambda: open_store(store).videos, lambda: open_store(store).feature("a")):
        with pytest.raises(CorruptStoreError, match="the store was tampered with"):
            read()
    report = verify(store)
    assert [problem.path.startswith("g000/videos-") for problem in report.problems] == [True]


ALPHABET = st.one_of(st.sampled_from([*"ab.:/\\ ~\n\x7f\x00é\u2028\u200d", "..", "C:/"]), st.characters(codec="utf-8"))


@given(st.lists(st.lists(ALPHABET, max_size=6).map("".join), max_size=4))
@example(["a", "."])
@example(["a/..\n"])
def test_the_fast_check_of_a_table_is_the_slow_one_of_each_id(ids):
    table = pa.table({"id": pa.array(ids, pa.string())})
    if any(map(id_problem, ids)) or len(set(ids)) != len(ids):
        with pytest.raises(CorruptStoreError):
            check_ids(table, where="table")
    else:
        check_ids(table, where="table")


def test_an_id_hidden_by_an_escape_stays_what_it_is(place):
    r"""``\x2e\x2e/x`` would be ``../x`` where other texts of the table are unescaped."""
    store = place / "work" / "store"
    rename_videos(store, {"v0001": r"\x2e\x2e/\x2e\x2e/victim/settings"})
    with pytest.raises(CorruptStoreError, match="contains a backslash"):
        _ = open_store(store).videos


def test_a_failed_video_of_another_name_is_not_believed(tmp_path):
    path = tmp_path / "s"
    write_store(path, StorePlan(records={"a": make_record((4,))}, num_videos=3, failing={1: "timeout"}))
    table = read_plan_table(path, "videos")
    rename_videos(path, {"v0001": "other"})
    open_store(path).coverage("a")
    replace_table(path, "videos", table)
    with pytest.raises(CorruptStoreError, match="lists a failed video 'other'"):
        open_store(path).coverage("a")


def test_safe_join_names_the_folder(tmp_path):
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "b").symlink_to(tmp_path / "root" / "a")
    with pytest.raises(CorruptStoreError, match=rf"{re.escape(str(tmp_path / 'root' / 'b'))} is a symbolic link"):
        safe_join(tmp_path / "root", "b/c/d")
