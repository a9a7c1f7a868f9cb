"""Something-Something v2 (Goyal et al., ICCV 2017): 220,847 clips of 174 templates.

The class is the template without its brackets (``Putting [something] on [something]``), which ``labels.json`` lists.
The key ``label`` of a row is the sentence with the objects filled in; it becomes the column ``caption``. The classes of
the test clips are in ``test-answers.csv`` (``id;class``), if that file exists.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from featcache.data.cells import squeezed
from featcache.data.importers.base import DatasetEntry, make_row
from featcache.data.importers.files import DatasetFiles, bad_row, read_json, read_lines
from featcache.data.types import VideoRecord
from featcache.errors import ManifestError

_PREFIX = r"(something-something-v2-)?"
_SPLITS = {"train": "train", "validation": "val", "test": "test"}


def list_ssv2(files: DatasetFiles) -> Iterator[VideoRecord]:
    """Rows of those of the train, validation and test lists that exist; ids are the official numbers."""
    path = files.need_list(rf"{_PREFIX}labels\.json", "labels.json")
    classes = read_json(path)
    if not isinstance(classes, dict) or not classes:
        raise ManifestError(f"{path} is not an object of class names; fetch it again")
    answers = _read_answers(files, classes)
    found = {split: files.find_list(rf"{_PREFIX}{name}\.json") for name, split in _SPLITS.items()}
    if not any(found.values()):
        raise ManifestError(f"{files.place} holds no 'train.json' or 'validation.json'; put the official lists there")
    for split, listed in found.items():
        if listed is None:
            continue
        rows = read_json(listed)
        if not isinstance(rows, list):
            raise ManifestError(f"{listed} is not a list of clips; fetch it again")
        for number, row in enumerate(rows):
            place = f"row {number}"
            if not isinstance(row, dict) or not isinstance(row.get("id"), str | int):
                raise bad_row(listed, place, "it has no id")
            video_id = str(row["id"]).strip()
            label = _class_of(listed, place, row, classes) if "template" in row else answers.get(video_id)
            labels = {"label": label} if label else {}
            if isinstance(row.get("label"), str):
                labels["caption"] = row["label"]
            yield make_row(
                video_id,
                found=files.video(video_id),
                expected=f"20bn-something-something-v2/{video_id}.webm",
                labels=labels,
                split=split,
            )


def _class_of(path: Path, place: str, row: Mapping[str, Any], classes: Mapping[str, Any]) -> str:
    label = _without_brackets(str(row["template"]))
    if label not in classes:
        raise bad_row(path, place, f"template {row['template']!r} of clip {row['id']!r} is not in labels.json")
    return label


def _read_answers(files: DatasetFiles, classes: Mapping[str, Any]) -> dict[str, str]:
    path = files.find_list(rf"{_PREFIX}test-answers\.csv")
    answers: dict[str, str] = {}
    for place, line in read_lines(path) if path else ():
        cell, semicolon, text = line.partition(";")
        video_id = cell.strip()
        if not semicolon:
            raise bad_row(path or files.root, place, f"{line!r} is no <id>;<class>")
        if not video_id.isdigit():
            continue  # a header
        label = _without_brackets(text)
        if label not in classes:
            raise bad_row(path or files.root, place, f"class {text!r} is not in labels.json")
        answers[video_id] = label
    return answers


def _without_brackets(template: str) -> str:
    return squeezed(template.replace("[", "").replace("]", ""))


SSV2 = DatasetEntry(
    list_videos=list_ssv2,
    layout="20bn-something-something-v2/<id>.webm; labels/{labels,train,validation,test}.json, test-answers.csv",
)
