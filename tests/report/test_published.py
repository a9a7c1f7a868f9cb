"""Every number that a paper prints stands in a cell of its own in a shipped table, or in a list with a reason."""

import csv
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from featcache.commands.registry import load
from featcache.commands.sweeps import SweepSettings
from featcache.shipped import configs_by_paper

CONFIGS = Path(__file__).parents[2] / "configs"
PUBLISHED = CONFIGS / "published"
PAPERS = sorted(path.stem for path in PUBLISHED.glob("*.csv") if path.stem != "not_run")
NOT_PRINTED = ("-", "OOM")


def lines(name):
    """Rows of one of the files."""
    with (PUBLISHED / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def printed(paper):
    """What the paper prints, as text, by (table, row, column)."""
    found = {(line["table"], line["row"], line["column"]): line["value"] for line in lines(paper)}
    assert len(found) == len(lines(paper)), "a cell is given twice"
    return found


def cells(paper, *, quoted=None):
    """Published numbers of all shipped sweeps of a paper: [((table, row, column), number)].

    Args:
        paper: The paper.
        quoted: Only those that stand alone, in rows or columns that nothing runs, or only the others.
    """
    found = []
    for stem, path in sorted(configs_by_paper()[paper].items()):
        if not stem.startswith("table"):
            continue
        settings = load(path)
        assert isinstance(settings, SweepSettings)
        table = stem.partition("_")[0].removeprefix("table")
        rows = [(row.name, row.published, row in settings.quoted) for row in (*settings.quoted, *settings.rows)]
        rows += [(name, published, False) for name, published in settings.published_of_grid.items()]
        for name, published, is_alone in rows:
            for column, number in published.items():
                is_quoted = is_alone or settings.columns.get(column, "") is None
                if quoted in (None, is_quoted):
                    found.append(((table, name, column), number))
    return found


def reason(paper, place):
    """Why the cell is not run; ``None``: it is."""
    matching = [
        line["reason"]
        for line in lines("not_run")
        if line["paper"] == paper
        and line["table"] == place[0]
        and fnmatchcase(place[1], line["row"])
        and fnmatchcase(place[2], line["column"])
    ]
    assert len(matching) <= 1, f"{place} has several reasons"
    return matching[0] if matching else None


def test_the_papers_that_are_typed():
    assert {"advise", "scale", "svt", "pretext"} == set(PAPERS)


@pytest.mark.parametrize("paper", PAPERS)
def test_every_printed_number_is_in_one_cell_or_has_a_reason(paper):
    in_cells = Counter(place for place, _ in cells(paper))
    numbers = dict(cells(paper))
    values = printed(paper)
    without = {place: reason(paper, place) for place in values if place not in in_cells}
    for place, value in values.items():
        if place in without:
            assert without[place], f"{place} is in no cell, and nothing says why"
        else:
            assert reason(paper, place) is None, f"{place} is in a cell and in the list of what is not run"
            assert in_cells[place] == 1, f"{place} is in {in_cells[place]} cells"
            assert value not in NOT_PRINTED
            assert numbers[place] == float(value), place
    print(f"{paper}: {len(values)} values, {len(values) - len(without)} in cells, {len(without)} with a reason")


@pytest.mark.parametrize("paper", PAPERS)
def test_no_cell_has_a_number_that_is_not_printed(paper):
    assert {place for place, _ in cells(paper)} <= set(printed(paper))


def test_every_reason_is_of_something_printed():
    for line in lines("not_run"):
        assert line["reason"]
        assert any(
            place[0] == line["table"] and fnmatchcase(place[1], line["row"]) and fnmatchcase(place[2], line["column"])
            for place in printed(line["paper"])
        ), line


@pytest.mark.parametrize(
    ("paper", "num_values", "num_beside_ours", "num_quoted"),
    [("advise", 154, 119, 35), ("scale", 360, 313, 20), ("svt", 44, 41, 3), ("pretext", 382, 275, 82)],
)
def test_how_many_there_are(paper, num_values, num_beside_ours, num_quoted):
    beside, alone = cells(paper, quoted=False), cells(paper, quoted=True)
    assert (len(printed(paper)), len(beside), len(alone)) == (num_values, num_beside_ours, num_quoted)
