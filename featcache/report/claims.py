"""Claims of the benchmark of pretext tasks, each as an exact test on the numbers of its tables, printed or ours.

A claim has one finding for each place where it can be tested. A finding shows its claim if its p is at most 0.05
divided by the number of findings of that claim.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from featcache.config import read_json
from featcache.errors import ConfigError
from featcache.metrics.permutation import permutation_p, sign_flip_p
from featcache.summary import Summary, SummaryTable

FLOOR = 2.0
"""Points of accuracy below which a single difference is not evidence: one run differs by up to 1.3 points between the
paper's own tables, and the sampling error on the first test split of UCF101 is 0.65 to 0.8 points."""
LEVEL = 0.05
CONTRASTIVE = ("cvrl", "tdl", "rspnet")
NON_CONTRASTIVE = ("rotnet", "vcop", "prp")
SPATIO_TEMPORAL = ("prp", "rspnet")
TASKS = (*NON_CONTRASTIVE, *CONTRASTIVE)
SMALL, LARGE = "shufflenet3d", "r21d"

Numbers = Mapping[tuple[str, str, str], float]
"""Values in percent by table (its number), row and column, all named as in the shipped tables."""
At = Callable[[str, str, str], float]
"""The number of a table, row and column; raises a ``LookupError`` that names it, where it is lacking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What some numbers say of a claim.

    Attributes:
        where: The numbers, e.g. ``Table 4, r21d``.
        said: What they say in short.
        p: One-sided p of an exact permutation test.
        opposite_p: p of the opposite claim by the same test.
        sign_p: p of the sign test, where pairs are compared.
        claim: The claim, put in by :func:`claims_of`.
        verdict: ``shown``, ``not shown`` or ``the opposite is shown``.
    """

    where: str
    said: str
    p: float
    opposite_p: float
    sign_p: float | None = None
    claim: str = ""
    verdict: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Findings on all claims.

    Attributes:
        source: Whose numbers they are.
        findings: What the numbers say.
        lacking: Claims of which the numbers are not there, with the first that is lacking.
    """

    source: str
    findings: tuple[Finding, ...]
    lacking: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    def summary(self) -> Summary:
        """One line per finding."""
        rows = tuple(
            (each.claim, each.where, each.said, each.verdict, _shown(each.p), _shown(each.sign_p))
            for each in self.findings
        )
        table = SummaryTable(
            title=f"claims of the benchmark, {self.source}",
            columns=("claim", "numbers", "they say", "verdict", "p", "p of signs"),
            rows=rows,
            num_text=4,
        )
        lines = [f"{claim}: not tested, {lack}" for claim, lack in self.lacking.items()]
        return Summary(tables=(table,) if rows else (), lines=tuple(lines))


def _shown(p: float | None) -> str:
    return "" if p is None else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def printed_numbers(file: Path) -> Numbers:
    """All numbers that the paper prints.

    Args:
        file: The shipped ``configs/published/pretext.csv``.
    """
    with file.open(newline="", encoding="utf-8") as opened:
        lines = list(csv.DictReader(opened))
    return {
        (line["table"], line["row"], line["column"]): float(line["value"]) for line in lines if line["table"] != "text"
    }


def measured_numbers(folder: Path) -> Numbers:
    """Our numbers in the tables that were carried out under a folder, e.g. ``runs/pretext_benchmark``.

    Args:
        folder: Folder with ``table1/table.json``, ``table2/table.json`` and so on; any of them may be lacking.

    Raises:
        ConfigError: There is no table, or one cannot be read.
    """
    found: dict[tuple[str, str, str], float] = {}
    files = sorted(folder.glob("table*/table.json"))
    if not files:
        raise ConfigError(
            f"{folder} holds no table*/table.json; carry tables out first with `featcache reproduce pretext`"
        )
    for file in files:
        number = file.parent.name.partition("_")[0].removeprefix("table")
        table = read_json(file, what="table")
        for row in table["rows"]:
            values = {column: row[column]["value"] for column in table["columns"]}
            found |= {(number, row["name"], column): value for column, value in values.items() if value is not None}
    return found


def claims_of(numbers: Numbers, *, source: str) -> Claims:
    """Test every claim of which the numbers are there.

    Args:
        numbers: Numbers by table, row and column.
        source: Whose numbers they are, for the heading.
    """

    def at(table: str, row: str, column: str) -> float:
        if (place := (table, row, column)) not in numbers:
            raise LookupError(f"Table {table} has no number of {row!r}, {column!r}")
        return numbers[place]

    findings: list[Finding] = []
    lacking: dict[str, str] = {}
    for claim, parts in CLAIMS.items():
        found = []
        for part in parts:
            try:
                found.append(replace(part(at), claim=claim))
            except LookupError as error:
                lacking.setdefault(claim, str(error.args[0]))
        findings += [_judged(each, num_tests=len(found)) for each in found]
    return Claims(source=source, findings=tuple(findings), lacking=lacking)


def _judged(finding: Finding, *, num_tests: int) -> Finding:
    """A finding with its verdict, as one of several on a claim."""
    limit = LEVEL / num_tests + 1e-12  # 1 / 20 is at the level
    if finding.p <= limit:
        return replace(finding, verdict="shown")
    return replace(finding, verdict="the opposite is shown" if finding.opposite_p <= limit else "not shown")


def _groups(where: str, what: str, lower: Sequence[float], higher: Sequence[float]) -> Finding:
    """Whether the mean of the second group is above that of the first."""
    return Finding(
        where=where,
        said=f"{what} {fmean(higher):.1f} against {fmean(lower):.1f}",
        p=permutation_p(lower, higher),
        opposite_p=permutation_p(higher, lower),
    )


def _pairs(where: str, what: str, differences: Sequence[float]) -> Finding:
    """Whether differences are above 0."""
    above, below, clear = (sum(is_one(each) for each in differences) for is_one in (_is_above, _is_below, _is_clear))
    signs = [1.0] * above + [-1.0] * below
    return Finding(
        where=where,
        said=f"{what} in {above} of {len(differences)}, in {clear} by more than {FLOOR:g}; mean "
        f"{fmean(differences):+.1f}",
        p=sign_flip_p(differences),
        sign_p=sign_flip_p(signs) if signs else None,
        opposite_p=sign_flip_p([-each for each in differences]),
    )


_ROUNDING = 1e-9


def _is_above(difference: float) -> bool:
    return difference > _ROUNDING


def _is_below(difference: float) -> bool:
    return difference < -_ROUNDING


def _is_clear(difference: float) -> bool:
    return difference > FLOOR + _ROUNDING


def _drops(network: str) -> Callable[[At], Finding]:
    def found(at: At) -> Finding:
        groups = ([at("4", network, task) for task in group] for group in (NON_CONTRASTIVE, CONTRASTIVE))
        return _groups(f"Table 4, {network}", "lost", *groups)

    return found


def _mean_drops(at: At) -> Finding:
    groups = (
        [fmean(at("4", network, task) for network in (LARGE, SMALL)) for task in group]
        for group in (NON_CONTRASTIVE, CONTRASTIVE)
    )
    return _groups("Table 4, mean of both networks", "lost", *groups)


def _smaller(at: At) -> Finding:
    return _pairs("Table 4", "less lost", [at("4", LARGE, task) - at("4", SMALL, task) for task in TASKS])


def _growth(at: At, table: str, tasks: Sequence[str]) -> list[float]:
    return [at(table, task, "50k") - at(table, task, "10k") for task in tasks]


def _spatio_temporal(table: str, data: str) -> Callable[[At], Finding]:
    def found(at: At) -> Finding:
        others = [task for task in TASKS if task not in SPATIO_TEMPORAL]
        groups = (_growth(at, table, group) for group in (others, SPATIO_TEMPORAL))
        return _groups(f"Table {table}, {data}, 10k to 50k", "gain of", *groups)

    return found


def _growing(table: str, data: str) -> Callable[[At], Finding]:
    def found(at: At) -> Finding:
        tasks = [task for task in TASKS if task != "tdl"]
        return _pairs(f"Table {table}, {data}, 10k to 50k", "gain", _growth(at, table, tasks))

    return found


def _late(at: At, tasks: Sequence[str]) -> list[float]:
    return [at("2", task, "200 epochs") - at("2", task, "100 epochs") for task in tasks]


def _late_groups(at: At) -> Finding:
    groups = (_late(at, group) for group in (CONTRASTIVE, NON_CONTRASTIVE))
    return _groups("Table 2, 100 to 200 epochs", "gain of non-contrastive tasks", *groups)


def _late_tasks(at: At) -> Finding:
    early = [at("2", task, "100 epochs") - at("2", task, "50 epochs") for task in TASKS]
    later = _late(at, TASKS)
    found = _pairs("Table 2, six tasks", "", [one - other for one, other in zip(early, later, strict=True)])
    return replace(found, said=_slowing(early, later))


def _late_rspnet(at: At) -> Finding:
    columns = [f"{network}, {size}" for network in (SMALL, LARGE, "swin3d") for size in ("10k", "30k", "50k", "100k")]
    columns.remove("swin3d, 10k")  # the paper prints a dash after 50 epochs
    at50, at100, at200 = ([at("11", f"{epochs} epochs", each) for each in columns] for epochs in (50, 100, 200))
    early = [after - before for before, after in zip(at50, at100, strict=True)]
    later = [after - before for before, after in zip(at100, at200, strict=True)]
    found = _pairs("Table 11, rspnet", "", [one - other for one, other in zip(early, later, strict=True)])
    return replace(found, said=_slowing(early, later))


def _slowing(early: Sequence[float], later: Sequence[float]) -> str:
    return (
        f"mean gain {fmean(early):.1f} from 50 to 100 epochs, {fmean(later):.1f} from 100 to 200; after 100 more than "
        f"{FLOOR:g} in {sum(map(_is_clear, later))} of {len(later)}"
    )


_COMPLEXITIES = ("C1", "C2", "C3")
_SOURCES = ("K400, UCF101", "SSv2, UCF101")
_TWO_SOURCES = ("rotnet", "vcop", "cvrl", "rspnet")
_TWO_TASKS = (("rotnet", "vcop"), ("cvrl", "tdl"))


def _students(networks: Sequence[str]) -> list[tuple[tuple[str, str, str], list[tuple[str, str, str]]]]:
    """Places of each student of some networks, and of its teachers; those of several tasks are from 50k videos."""
    students: list[tuple[tuple[str, str, str], list[tuple[str, str, str]]]] = [
        (("13", "student", f"{task}, {network}"), [("3", f"{task} {level}", network) for level in _COMPLEXITIES])
        for network in networks
        for task in NON_CONTRASTIVE
    ]
    if LARGE in networks:
        students += [(("14", task, "student"), [("14", task, each) for each in _SOURCES]) for task in _TWO_SOURCES]
        students += [(("15", ", ".join(pair), "student"), [("1", task, "50k") for task in pair]) for pair in _TWO_TASKS]
    return students


def _over_teachers(where: str, networks: Sequence[str]) -> Callable[[At], Finding]:
    def found(at: At) -> Finding:
        gains = [at(*student) - max(at(*each) for each in teachers) for student, teachers in _students(networks)]
        return _pairs(where, "above the best teacher", gains)

    return found


def _over_arm(arm: str) -> Callable[[At], Finding]:
    """Students against the same students of a control arm, which is a row of Table 13 and a column of the others."""

    def found(at: At) -> Finding:
        gains = [
            at(table, row, column) - (at(table, arm, column) if table == "13" else at(table, row, arm))
            for (table, row, column), _ in _students((SMALL, LARGE))
        ]
        return _pairs(f"Tables 13 to 15, against {arm}", "above it", gains)

    return found


CLAIMS: Mapping[str, tuple[Callable[[At], Finding], ...]] = {
    "contrastive tasks are less robust to noise": (_drops(LARGE), _drops(SMALL), _mean_drops),
    "the smaller network is more robust to noise": (_smaller,),
    "all tasks but tdl gain with more videos": (_growing("1", "UCF101"), _growing("8", "HMDB51")),
    "spatio-temporal tasks gain most with more videos": (
        _spatio_temporal("1", "UCF101"),
        _spatio_temporal("8", "HMDB51"),
    ),
    "contrastive tasks gain less after 100 epochs": (_late_groups,),
    "training saturates after 100 epochs": (_late_tasks, _late_rspnet),
    "students exceed their best teacher": (
        _over_teachers("Tables 13 to 15", (SMALL, LARGE)),
        _over_teachers("Tables 13 to 15, r21d alone", (LARGE,)),
    ),
    "students learn from their teachers": (_over_arm("labels alone"), _over_arm("permuted teachers")),
}
"""Tests by claim; the last one takes rows that the paper does not print."""
