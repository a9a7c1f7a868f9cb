"""What files say is shown, and obeyed by nobody: no terminal, and no spreadsheet."""

import csv
import json
import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from featcache.cli import console
from featcache.cli.main import app, main
from featcache.data.cells import quoted, read_csv
from featcache.data.sources import list_source
from featcache.data.types import VideoRecord
from featcache.errors import FeatcacheError
from featcache.exchange.listing import read_listing, write_videos
from featcache.recipes import SamplingRecipe
from featcache.retrieval.run import Hit, SearchResult
from featcache.store.reader import open_store
from featcache.store.writer import StoreWriter
from featcache.testing import stores
from featcache.units import printable, printable_json

HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\r\nerror: all is lost\u202egnp.exe"
SHOWN = r"\x1b[2J\x1b]0;title\x07\x9b31m\r\nerror: all is lost\u202egnp.exe"
OBEYED = [
    chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F)) if code != 10
]


def assert_calm(text):
    assert not [character for character in OBEYED if character in text]
    assert not [line for line in text.splitlines() if line.strip().startswith("error: all is lost")]


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_shown_texts_are_told_apart_and_calm(text):
    shown = printable(text)
    assert "\n" not in shown
    assert_calm(shown)
    shown.encode()
    if text.isprintable():
        assert shown == text
    assert json.loads(printable_json(json.dumps(text, ensure_ascii=False))) == text
    assert_calm(printable(text, lines=True).replace("\n", "").replace("\t", ""))


def test_every_way_to_print(capsys):
    console.configure_logging()
    console.print_table(f"t {HOSTILE}", (HOSTILE, "b"), [(HOSTILE, 1), ("[bold]x[/bold]", 2)])
    console.print_facts({HOSTILE: HOSTILE})
    console.print_line(HOSTILE, dim=True)
    console.print_error(FeatcacheError(HOSTILE))
    console.print_json({HOSTILE: [HOSTILE]})
    console.out.print(HOSTILE.replace("\n", ""))
    logging.getLogger("featcache").warning("of %s", HOSTILE)
    with console.bars() as drawn:
        drawn.update("verify", 1, 1, HOSTILE + "[/dim]")
    printed = capsys.readouterr()
    assert_calm(printed.out)
    assert_calm(printed.err)
    assert printed.out.count(SHOWN) == 6
    assert json.loads(printed.out[printed.out.index("{\n") : printed.out.rindex("}") + 1]) == {HOSTILE: [HOSTILE]}


def test_a_bar_on_a_terminal_takes_no_markup_and_no_escape(monkeypatch):
    import io

    terminal = io.StringIO()
    monkeypatch.setattr(console.err, "_force_terminal", True)
    monkeypatch.setattr(console.err, "_file", terminal)
    with console.bars() as drawn:
        drawn.update("verify", 1, 1, "[/red]" + HOSTILE)
    assert "[/red]" in terminal.getvalue()
    assert "]0;title\x07" not in terminal.getvalue()
    assert "\x1b[2J" not in terminal.getvalue()


@pytest.fixture
def hostile_store(tmp_path, monkeypatch):
    """A store whose labels, splits and failures are hostile, and in whose folder lies a file with such a name."""
    make = stores.make_videos

    def hostile(*arguments, **named):
        return [
            VideoRecord(
                **{
                    **{name: getattr(video, name) for name in VideoRecord.__dataclass_fields__},
                    "labels": {"label": HOSTILE + video.labels["label"]},
                    "split": video.split if video.split == "train" else HOSTILE,
                }
            )
            for video in make(*arguments, **named)
        ]

    monkeypatch.setattr(stores, "make_videos", hostile)
    plan = stores.StorePlan(records={"a": stores.make_record((4,))}, num_videos=12)
    with StoreWriter.open(tmp_path / "s", sampling=SamplingRecipe()) as writer:
        stores.fill(writer, stores.add_generation(writer, plan), plan)
    (tmp_path / "s" / HOSTILE.replace("/", "")).write_bytes(b"")
    return tmp_path / "s"


def test_commands_print_labels_splits_and_file_names_calmly(hostile_store, tmp_path):
    store = str(hostile_store)
    for arguments in (
        ["info", store],
        ["verify", store],
        ["verify", store, "--json"],
        ["probe", "knn", store, "-k", "1", "--out", str(tmp_path / "p")],
        ["export", store, "--format", "npy", "--out", str(tmp_path / "e"), "--json"],
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        assert_calm(done.output)
        if arguments[0] in ("verify", "probe"):
            assert r"\x1b[2J" in done.output or "u001b[2J" in done.output


def test_search_prints_labels_calmly(hostile_store, capsys):
    opened = open_store(hostile_store)
    hit = Hit(rank=1, video="v", score=1.0, start_seconds=0.0, end_seconds=1.0, label=HOSTILE, row=0, frame=0)
    coverage = opened.coverage("a")
    result = SearchResult(
        store="s", feature=HOSTILE, by="clip", engine="exact", excluded=(), coverage=coverage, hits=(hit,)
    )
    console.print_result(result)
    printed = capsys.readouterr().out
    assert SHOWN in printed
    assert_calm(printed)


def test_an_error_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["featcache", "info", str(tmp_path / f"no{HOSTILE}")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    printed = capsys.readouterr().err
    assert_calm(printed)
    assert len(printed.splitlines()) == 1


FORMULAS = ["=1+1", "+1-2", "-x", "@SUM(A1)", "\t=1", "\r=1", "=", "-", "'=1", "''-x", '=HYPERLINK("http://x";"y")']
PLAIN = ["", "a", "a=b", "'", "'a", "-1", "+1.5", "-1e-3", "-.5", "0-1", "Ω", "a-b.mp4"]


@pytest.mark.parametrize("text", FORMULAS)
def test_what_a_spreadsheet_takes_for_a_formula_is_quoted(text):
    assert quoted(text) == f"'{text}"


@pytest.mark.parametrize("text", PLAIN)
def test_other_texts_and_numbers_stay(text):
    assert quoted(text) == text


@given(st.lists(st.one_of(st.sampled_from(FORMULAS + PLAIN), st.text("'=+-@a1", max_size=6)), min_size=1, max_size=8))
def test_reading_takes_away_what_quoting_added(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("cells") / "x.csv"
    wanted = [text.strip() or "x" for text in texts]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "label"], *(["x", quoted(text)] for text in wanted)])
    assert [row["label"] for _, row in read_csv(path, needed=("id",))] == wanted


def test_exports_are_quoted_and_come_back(tmp_path):
    labels = {"label": "=cmd|'/C calc'!A0", "label2": "-1.5", "label3": "@x"}
    videos = [
        VideoRecord(id=name, path=name, labels=labels, split="+test", reason="-why", status="missing", codec="=h264")
        for name in ("-Abc.mp4", "=x.mp4", "@y.mp4", "'=z.mp4", "plain.mp4")
    ]
    path = tmp_path / "videos.csv"
    path.write_bytes(write_videos(videos, {}))
    with path.open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[:1] in "=+-@\t\r" and cell and cell != "-1.5"]
    listed = read_listing(path)
    assert list(listed) == [video.id for video in videos]
    assert all(facts["labels"] == labels and facts["split"] == "+test" for facts in listed.values())
    again = list_source(path)
    assert {video.id: (video.path, dict(video.labels), video.split) for video in again.videos} == {
        video.id: (video.path, labels, video.split) for video in videos
    }
    assert np.all([facts["reason"] == "-why" for facts in listed.values()])
