r"""LVU 1.0 (Wu and Krähenbühl, CVPR 2021): nine tasks over long film clips, each with its own split.

``<task>/{train,val,test}.csv`` are separated by spaces and begin with a header. Classification tasks have the columns
``class_id class_name youtube_id imdb_id``; a class name may be ``\N``, ids have gaps. A video occurs in several tasks
with different splits, so a row has one label column per task (``scene``) and one for its split (``split_scene``), which
a probe of ``scene`` uses unless another is chosen; the row's own split stays empty. The targets of regressions are
numbers, with the transform of the authors' code: ``view_count`` is ln(views) - 11.76425435683139,
``like_ratio`` is 10 * likes / (likes + dislikes) - 9.138220535629456.
"""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from featcache.data.importers.base import DatasetEntry, make_row
from featcache.data.importers.files import DatasetFiles, bad_row, read_lines
from featcache.data.types import VideoRecord
from featcache.errors import ManifestError

CLASSIFICATION = ("relationship", "way_speaking", "scene", "director", "writer", "year", "genre")
REGRESSION = ("like_ratio", "view_count")
TASKS = (*CLASSIFICATION, *REGRESSION)
MEAN_LOG_VIEWS = 11.76425435683139
MEAN_LIKE_RATIO = 9.138220535629456
_NO_NAME = r"\N"


def list_lvu(files: DatasetFiles) -> Iterator[VideoRecord]:
    """Union of the tasks' lists, in the order of the tasks; ids are YouTube ids."""
    labels: dict[str, dict[str, str]] = {}
    for task in TASKS:
        for path, place, cells, split in _read_task(files, task):
            *values, video_id, film = cells
            row = labels.setdefault(video_id, {"group": film})
            if row.setdefault(f"split_{task}", split) != split:
                raise bad_row(path, place, f"{video_id!r} is in the {row[f'split_{task}']} and the {split} list")
            if task in REGRESSION:
                target = _target(path, place, task, values)
                row |= {task: repr(target)} if target is not None else {}
            else:
                row[task] = f"{values[0]} {' '.join(values[1:])}"
        if task in CLASSIFICATION:
            _name_classes(labels, task)
    if not labels:
        raise ManifestError(f"{files.place} holds no '<task>/train.csv' of LVU ({', '.join(TASKS)}); put lvu_1.0 there")
    for video_id, row in labels.items():
        yield make_row(video_id, found=files.video(video_id), expected=f"videos/{video_id}.mp4", labels=row)


def _read_task(files: DatasetFiles, task: str) -> Iterator[tuple[Path, str, list[str], str]]:
    """(file, place, cells, split) of the rows of a task, if its lists exist."""
    for split in ("train", "val", "test"):
        found = [path for path in files.find_lists(rf"{split}\.csv") if path.parent.name == task]
        if len(found) > 1:
            raise ManifestError(f"{files.place} holds two lists {task}/{split}.csv; leave the one that counts")
        for path in found:
            for number, (place, line) in enumerate(read_lines(path)):
                cells = line.split()
                if number == 0:
                    continue  # the header
                if len(cells) < (3 if task == "view_count" else 4):
                    raise bad_row(path, place, f"{line!r} has {len(cells)} cells, too few for the task {task}")
                yield path, place, cells, split


def _target(path: Path, place: str, task: str, values: list[str]) -> float | None:
    """The transformed target; ``None`` for a video without views or votes, for which it is undefined."""
    try:
        numbers = [int(value) for value in values]
    except ValueError as error:
        raise bad_row(path, place, f"{' '.join(values)!r} are no counts") from error
    if min(numbers) < 0:
        raise bad_row(path, place, f"{' '.join(values)!r} are no counts")
    if task == "view_count":
        return math.log(numbers[0]) - MEAN_LOG_VIEWS if numbers[0] else None
    likes, dislikes = numbers[:2]
    return 10 * likes / (likes + dislikes) - MEAN_LIKE_RATIO if likes + dislikes else None


def _name_classes(labels: dict[str, dict[str, str]], task: str) -> None:
    """Replace ``<id> <name>`` by the name, or by ``class_<id>`` if the name is missing or belongs to two ids."""
    classes = {row[task] for row in labels.values() if task in row}
    num_ids = Counter(text.partition(" ")[2] for text in classes)
    for row in labels.values():
        if task in row:
            class_id, _, name = row[task].partition(" ")
            row[task] = name if name not in ("", _NO_NAME) and num_ids[name] == 1 else f"class_{class_id}"


LVU = DatasetEntry(
    list_videos=list_lvu,
    layout="<task>/{train,val,test}.csv; videos/<youtube_id>.mp4",
    split_columns=tuple(f"split_{task}" for task in TASKS),
    has_default_split=False,
)
