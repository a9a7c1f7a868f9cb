"""Reads rows and cells of lists, whatever program saved them: white space, or ``1.0`` for ``1``, makes no new class."""

import csv
import math
import re
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from featcache.data.remote import open_binary
from featcache.errors import FeatcacheError, ManifestError
from featcache.files.urls import shown

_DELIMITERS = (",", ";", "\t")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_INTEGRAL = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0", re.ASCII)
_EXACT_INTEGERS = 1 << 53
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)


def open_list(path: Path, *, error: type[FeatcacheError] = ManifestError) -> TextIO:
    """Open a list as text; bytes that are not UTF-8 are preserved, since a file name need not be UTF-8.

    Raises:
        FeatcacheError: Of the class ``error``: the file is UTF-16, in which no cell would be found.
    """
    raw = open_binary(path)
    is_utf16 = raw.read(2) in _UTF16_MARKS
    raw.seek(0)
    text = TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
    if is_utf16:
        text.close()
        raise error(f"{shown(path)} is UTF-16; save it as UTF-8")
    return text


def read_csv(
    path: Path,
    *,
    needed: Sequence[str] = (),
    either: Sequence[str] = (),
    pad: bool = False,
    fold: bool = False,
    error: type[FeatcacheError] = ManifestError,
) -> Iterator[tuple[str, dict[str, str]]]:
    """(``line 3``, cells by column) of a CSV's rows; rows without a filled cell are left out.

    Cells are separated by commas, or by semicolons or tabs if the header shows that. Windows line ends, a byte order
    mark, white space around cells and unnamed columns at the end are ignored; an apostrophe before text that a
    spreadsheet would read as a formula (see :func:`quoted`) is not part of the cell.

    Args:
        path: The file.
        needed: Columns that must be present.
        either: Columns of which one must be present.
        pad: Whether a row may have fewer cells than the header; the missing ones are then empty.
        fold: Whether column names are compared without regard to case.
        error: Class of the error that is raised.

    Raises:
        FeatcacheError: Of the class ``error``: a column is missing or occurs twice, or a row cannot be used; names the
            line.
    """
    with open_list(path, error=error) as file:
        delimiter = _delimiter(file, needed, either, fold=fold)
        file.seek(0)
        reader = csv.reader(file, strict=True, delimiter=delimiter, skipinitialspace=True)
        try:
            header: list[str] = []
            for cells in reader:
                header = _names(cells, fold=fold)
                if header:
                    break
            if lacking := _lacking(header, needed, either):
                raise error(f"{shown(path)} has no column {lacking} (it has {', '.join(header) or 'none'}); add one")
            if twice := sorted({name for name in header if header.count(name) > 1}):
                raise error(f"{shown(path)} has the column {twice[0]!r} twice; rename one")
            for raw in reader:
                cells = [cell.strip() for cell in raw]
                while len(cells) > len(header) and not cells[-1]:
                    cells.pop()
                if not any(cells):
                    continue
                if len(cells) > len(header) or (len(cells) < len(header) and not pad):
                    raise error(
                        f"{shown(path)}, line {reader.line_num}: {len(cells)} cells for {len(header)} columns; "
                        f"quote cells that hold {delimiter!r}"
                    )
                cells += [""] * (len(header) - len(cells))
                yield f"line {reader.line_num}", dict(zip(header, map(_unquoted, cells), strict=True))
        except csv.Error as problem:
            raise error(f"{shown(path)}, line {reader.line_num}: {problem}; fix the line") from problem


def quoted(text: str) -> str:
    """A text as a cell of a CSV file; a text that a spreadsheet would read as a formula gets an apostrophe in front.

    Such texts begin with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return, after any apostrophes; plain numbers
    are harmless and stay as they are. :func:`read_csv` removes the apostrophe again.
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def _unquoted(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def cell_text(cell: object) -> str:
    """The text of a cell: a float without a fraction becomes the integer, and not-a-number an empty cell."""
    if isinstance(cell, float):
        if math.isnan(cell):
            return ""
        if cell.is_integer() and abs(cell) < _EXACT_INTEGERS:
            return str(int(cell))
    return str(cell)


def label_text(cell: object) -> str:
    """A label or split in the form in which it is compared: as :func:`cell_text`, and the text ``1.0`` becomes ``1``.

    Many tools turn a column of integers into floats as soon as a cell is empty, and write them as text.
    """
    text = cell_text(cell)
    if (match := _INTEGRAL.fullmatch(text)) is None:
        return text
    return "0" if match[1] == "-0" else match[1]


def squeezed(text: str) -> str:
    """Text with single blanks for all its white space, and none at its ends."""
    return " ".join(text.split())


def _lacking(header: Sequence[str], needed: Sequence[str], either: Sequence[str]) -> str:
    """The first required column that a header lacks, or the alternatives of which it has none; empty if none lacks."""
    if missing := [name for name in needed if name not in header]:
        return repr(missing[0])
    return " or ".join(map(repr, either)) if either and not set(either) & set(header) else ""


def _delimiter(file: TextIO, needed: Sequence[str], either: Sequence[str], *, fold: bool) -> str:
    """The delimiter of the first line that is not blank; a comma unless that gives none of the required columns."""
    first = next((line for line in file if line.strip()), "")
    for delimiter in _DELIMITERS:
        try:
            header = _names(next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), []), fold=fold)
        except csv.Error:
            continue
        if not _lacking(header, needed, either):
            return delimiter
    return _DELIMITERS[0]


def _names(cells: Sequence[str], *, fold: bool) -> list[str]:
    names = [cell.strip().casefold() if fold else cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return names
