"""Diving48 (Li et al., ECCV 2018): dives of 48 classes, in the first and the cleaned second version of the labels.

The lists are JSON arrays of ``{"vid_name": "-mmq0PT-u8k_00155", "label": 0, …}``. ``Diving48_vocab.json`` names each
class by four parts, e.g. ``["Back", "15som", "05Twis", "FREE"]``: the label is ``Back_15som_05Twis_FREE`` and the parts
are columns of their own. Clips are trimmed, so ``start_frame`` and ``end_frame`` are not needed.
"""

from collections.abc import Iterator

from featcache.data.importers.base import DatasetEntry, make_row
from featcache.data.importers.files import DatasetFiles, bad_row, read_json
from featcache.data.types import VideoRecord
from featcache.errors import ManifestError

PARTS = ("takeoff", "somersault", "twist", "position")
_LAYOUT = "rgb/<vid_name>.mp4; Diving48{}_train.json, Diving48{}_test.json, Diving48_vocab.json"


def list_diving48(files: DatasetFiles) -> Iterator[VideoRecord]:
    """Rows of the lists of version 2; ids are ``vid_name``."""
    return _list(files, version="_V2")


def list_diving48_v1(files: DatasetFiles) -> Iterator[VideoRecord]:
    """Rows of the lists of version 1; ids are ``vid_name``."""
    return _list(files, version="")


def _list(files: DatasetFiles, *, version: str) -> Iterator[VideoRecord]:
    vocabulary = _read_vocabulary(files)
    for split in ("train", "test"):
        name = f"Diving48{version}_{split}.json"
        path = files.need_list(rf"Diving48{version}_{split}\.json", name)
        rows = read_json(path)
        if not isinstance(rows, list):
            raise ManifestError(f"{path} is not a list of clips; fetch it again")
        for number, row in enumerate(rows):
            place = f"row {number}"
            if not isinstance(row, dict) or not isinstance(row.get("vid_name"), str):
                raise bad_row(path, place, "it has no vid_name")
            vid_name = row["vid_name"].strip()
            labels = {"group": vid_name.rpartition("_")[0] or vid_name}
            if (label := row.get("label")) is not None:
                if not isinstance(label, int) or not 0 <= label < len(vocabulary):
                    raise bad_row(path, place, f"label {label!r} is not one of the {len(vocabulary)} classes")
                parts = vocabulary[label]
                labels |= {"label": "_".join(parts), **dict(zip(PARTS, parts, strict=True))}
            yield make_row(
                vid_name, found=files.video(vid_name), expected=f"rgb/{vid_name}.mp4", labels=labels, split=split
            )


def _read_vocabulary(files: DatasetFiles) -> list[list[str]]:
    path = files.need_list(r"Diving48(_V2)?_vocab\.json", "Diving48_vocab.json")
    vocabulary = read_json(path)
    if not isinstance(vocabulary, list) or not all(
        isinstance(parts, list) and len(parts) == len(PARTS) and all(isinstance(part, str) for part in parts)
        for parts in vocabulary
    ):
        raise ManifestError(f"{path} is not a list of classes of {len(PARTS)} parts each; fetch it again")
    return vocabulary


DIVING48 = DatasetEntry(
    list_videos=list_diving48,
    layout=_LAYOUT.format("_V2", "_V2"),
)
DIVING48_V1 = DatasetEntry(
    list_videos=list_diving48_v1,
    layout=_LAYOUT.format("", ""),
)
