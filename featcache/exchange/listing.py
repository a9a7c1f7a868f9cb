"""The listing beside arrays, a CSV with one row per video, and the recipe file of an export."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from featcache.config import read_mapping
from featcache.data.cells import quoted, read_csv
from featcache.data.manifest import RARE_FIELDS, label_column, listed_label
from featcache.data.types import VideoRecord
from featcache.errors import ConfigError, ExchangeError, unknown_name
from featcache.exchange.columns import label_names

VIDEOS = "videos.csv"
RECIPE = "recipe.yaml"

_FIELDS = (
    "path", "num_bytes", "content_hash", "num_frames", "fps", "duration_seconds", "start_seconds", "height", "width",
    "codec",
)  # fmt: skip
_RECIPE_KEYS = ("feature", "sampling", "plan", "note")


def write_videos(videos: Iterable[VideoRecord], num_rows: Mapping[str, int]) -> bytes:
    """Write a CSV of ``id, status, reason, split, num_rows``, the labels, and the fields of the manifest.

    Floats are written so that reading gives the same values; bytes of a name that are not UTF-8 are preserved. Texts
    that a spreadsheet would read as a formula get an apostrophe in front, which :func:`read_listing` removes.
    """
    videos = list(videos)
    labels = label_names(videos)
    rare = [name for name, usual in RARE_FIELDS.items() if any(getattr(video, name) != usual for video in videos)]
    fields = (*_FIELDS, *rare)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    header = ("id", "status", "reason", "split", "num_rows", *map(label_column, labels), *fields)
    writer.writerow(header)
    for video in videos:
        texts = [video.id, video.status, video.reason, video.split]
        named = [video.labels.get(name, "") for name in labels]
        known = [getattr(video, name) for name in fields]
        cells = [*texts, num_rows.get(video.id, 0), *named, *known]
        writer.writerow([quoted(cell) if isinstance(cell, str) else cell for cell in cells])
    return text.getvalue().encode("utf-8", "surrogateescape")


def read_listing(path: Path) -> dict[str, dict[str, Any]]:
    """Read the facts of each video of a listing, by id, in its order; empty cells are absent.

    Raises:
        ExchangeError: There is no such file or no column ``id``, or a row cannot be used; names the line.
    """
    listed: dict[str, dict[str, Any]] = {}
    try:
        for line, row in read_csv(path, needed=("id",), error=ExchangeError):
            place = f"{path}, {line}"
            filled = {name: cell for name, cell in row.items() if cell}
            cells = {name: cell for name, cell in filled.items() if listed_label(name) is None}
            labels = {name: cell for column, cell in filled.items() if (name := listed_label(column)) is not None}
            if "id" not in cells:
                raise ExchangeError(f"{place}: no id; every row needs one")
            if cells["id"] in listed:
                raise ExchangeError(f"{place}: id {cells['id']!r} occurs twice; remove one")
            listed[cells["id"]] = {**cells, "labels": labels}
    except FileNotFoundError as error:
        raise ExchangeError(f"listing {path} does not exist; give a CSV with a column 'id', or leave it out") from error
    return listed


def write_recipe(document: Mapping[str, Any]) -> bytes:
    """Write ``feature``, ``sampling``, ``plan`` and ``note`` as YAML."""
    text: str = yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=100)
    return text.encode()


def read_recipe(path: Path) -> dict[str, Any]:
    """Read the parts of a recipe file for ``import``.

    Raises:
        ConfigError: The file is not YAML, or has an unknown key.
    """
    data = read_mapping(path)
    if strangers := sorted(set(map(str, data)) - set(_RECIPE_KEYS)):
        raise unknown_name("key", strangers[0], _RECIPE_KEYS, hint=f"(in {path})")
    for name in ("feature", "sampling", "plan"):
        if not isinstance(data.get(name, {}), dict):
            raise ConfigError(f"{path}: {name!r} holds {type(data[name]).__name__}, not a mapping")
    return data
