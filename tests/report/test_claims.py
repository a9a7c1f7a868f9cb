"""Claims of the benchmark of pretext tasks: golden p values of the printed numbers, and tests of our own tables."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from featcache.errors import ConfigError
from featcache.report.claims import CLAIMS, claims_of, measured_numbers, printed_numbers

ROOT = Path(__file__).parents[2]
BENCHMARKS, PRINTED = ROOT / "benchmarks", ROOT / "configs" / "published" / "pretext.csv"
LESS_ROBUST = "contrastive tasks are less robust to noise"
SMALLER = "the smaller network is more robust to noise"
GAIN = "all tasks but tdl gain with more videos"
MOST = "spatio-temporal tasks gain most with more videos"
LATE = "contrastive tasks gain less after 100 epochs"
SATURATED = "training saturates after 100 epochs"
STUDENTS = "students exceed their best teacher"
TEACHERS = "students learn from their teachers"


@pytest.fixture(scope="module")
def printed():
    return claims_of(printed_numbers(PRINTED), source="printed numbers")


@pytest.mark.parametrize(
    ("claim", "where", "ways", "num_alike", "verdict"),
    [
        (LESS_ROBUST, "Table 4, r21d", 20, 3, "not shown"),
        (LESS_ROBUST, "Table 4, shufflenet3d", 20, 1, "not shown"),
        (LESS_ROBUST, "Table 4, mean of both networks", 20, 2, "not shown"),
        (SMALLER, "Table 4", 64, 12, "not shown"),
        (GAIN, "Table 1, UCF101, 10k to 50k", 32, 1, "not shown"),
        (GAIN, "Table 8, HMDB51, 10k to 50k", 32, 7, "not shown"),
        (MOST, "Table 1, UCF101, 10k to 50k", 15, 1, "not shown"),
        (MOST, "Table 8, HMDB51, 10k to 50k", 15, 2, "not shown"),
        (LATE, "Table 2, 100 to 200 epochs", 20, 3, "not shown"),
        (SATURATED, "Table 2, six tasks", 64, 39, "not shown"),
        (SATURATED, "Table 11, rspnet", 2048, 16, "shown"),
        (STUDENTS, "Tables 13 to 15", 4096, 21, "shown"),
        (STUDENTS, "Tables 13 to 15, r21d alone", 512, 21, "not shown"),
    ],
)
def test_p_values_of_the_printed_numbers(printed, claim, where, ways, num_alike, verdict):
    (found,) = (each for each in printed.findings if (each.claim, each.where) == (claim, where))
    assert found.p == pytest.approx(num_alike / ways)
    assert found.verdict == verdict


def test_what_the_printed_numbers_say(printed):
    said = {(each.claim, each.where): each.said for each in printed.findings}
    assert len(said) == len(printed.findings) == 13
    assert said[LESS_ROBUST, "Table 4, r21d"] == "lost 58.0 against 33.3"
    assert said[SMALLER, "Table 4"] == "less lost in 3 of 6, in 3 by more than 2; mean +11.7"
    assert said[GAIN, "Table 8, HMDB51, 10k to 50k"] == "gain in 3 of 5, in 2 by more than 2; mean +2.7"
    assert said[MOST, "Table 1, UCF101, 10k to 50k"] == "gain of 17.9 against 3.3"
    assert "after 100 more than 2 in 2 of 6" in said[SATURATED, "Table 2, six tasks"]
    assert said[STUDENTS, "Tables 13 to 15"] == "above the best teacher in 10 of 12, in 10 by more than 2; mean +16.5"
    assert {*dict.fromkeys(each.claim for each in printed.findings)} == {*CLAIMS} - {TEACHERS}
    assert printed.lacking == {TEACHERS: "Table 13 has no number of 'labels alone', 'rotnet, shufflenet3d'"}


def test_signs_alone(printed):
    by_where = {(each.claim, each.where): each.sign_p for each in printed.findings}
    assert by_where[SMALLER, "Table 4"] == pytest.approx(42 / 64)
    assert by_where[STUDENTS, "Tables 13 to 15"] == pytest.approx(79 / 4096)
    assert by_where[SATURATED, "Table 11, rspnet"] == pytest.approx(56 / 1024)  # two gains are alike
    assert by_where[LATE, "Table 2, 100 to 200 epochs"] is None


def table(rows):
    """A table of a sweep with only what is read."""
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    return {
        "columns": columns,
        "rows": [
            {"name": name, **{column: {"value": cells.get(column)} for column in columns}}
            for name, cells in rows.items()
        ],
    }


def test_own_tables_are_tested_as_printed_ones_are(tmp_path):
    tasks = ("rotnet", "vcop", "prp", "cvrl", "tdl", "rspnet")
    drops = dict(zip(tasks, (50.0, 60.0, 70.0, 10.0, 20.0, 30.0), strict=True))
    tables = {
        "table4": {"r21d": drops, "shufflenet3d": {**drops, "rotnet": None}},
        "table8": {task: {"10k": 30.0, "50k": 31.0 + place} for place, task in enumerate(tasks)},
        "table8_other": {"rotnet": {"20k": 0.0}},
    }
    for name, rows in tables.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "table.json").write_text(json.dumps(table(rows)))
    found = claims_of(measured_numbers(tmp_path), source="own")
    assert {(each.claim, each.where): (each.p, each.verdict) for each in found.findings} == {
        (LESS_ROBUST, "Table 4, r21d"): (1.0, "the opposite is shown"),
        (GAIN, "Table 8, HMDB51, 10k to 50k"): (1 / 32, "shown"),  # of one finding alone
        (MOST, "Table 8, HMDB51, 10k to 50k"): (pytest.approx(4 / 15), "not shown"),
    }
    assert found.lacking[LESS_ROBUST] == "Table 4 has no number of 'shufflenet3d', 'rotnet'"
    assert set(found.lacking) == set(CLAIMS)
    with pytest.raises(ConfigError, match="holds no table"):
        measured_numbers(tmp_path / "table4")


def test_students_are_compared_with_both_control_arms():
    numbers = {}
    for network in ("shufflenet3d", "r21d"):
        for task in ("rotnet", "vcop", "prp"):
            for row, value in (("student", 60.0), ("labels alone", 57.0), ("permuted teachers", 61.0)):
                numbers["13", row, f"{task}, {network}"] = value
    for number, rows in (("14", ("rotnet", "vcop", "cvrl", "rspnet")), ("15", ("rotnet, vcop", "cvrl, tdl"))):
        for row in rows:
            numbers |= {(number, row, "student"): 60.0, (number, row, "labels alone"): 57.0}
            numbers[number, row, "permuted teachers"] = 61.0
    labels, permuted = claims_of(numbers, source="own").findings
    assert (labels.where, labels.verdict) == ("Tables 13 to 15, against labels alone", "shown")
    assert labels.said == "above it in 12 of 12, in 12 by more than 2; mean +3.0"
    assert (permuted.p, permuted.verdict) == (1.0, "the opposite is shown")


def test_the_script_prints_printed_and_own_numbers(monkeypatch, capsys, tmp_path):
    (tmp_path / "table4").mkdir()
    (tmp_path / "table4" / "table.json").write_text(json.dumps(table({"r21d": {"rotnet": 1.0}})))
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    monkeypatch.setattr(sys, "argv", ["pretext_claims.py", "--json", "--runs", str(tmp_path)])
    importlib.import_module("pretext_claims").main()
    first, second = json.loads(capsys.readouterr().out)
    assert len(first["findings"]) == 13
    assert (second["findings"], set(second["lacking"])) == ([], set(CLAIMS))
