"""Kinetics-400, -600 and -700 (Kay et al., 2017; Carreira et al., 2018, 2019): one CSV per split, in any arrangement.

The columns are ``label,youtube_id,time_start,time_end,split``, in some lists also ``is_cc``; test lists may have no
label. A clip's file is ``<youtube_id>_<start>_<end>.mp4`` with six digits each, in a folder per label (with spaces or
underscores), below a folder per split, or in neither; a file of that name in ``replacement_for_corrupted_k400``
replaces it. Labels are always given with spaces.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from featcache.data.cells import read_csv, squeezed
from featcache.data.importers.base import DatasetEntry, make_row
from featcache.data.importers.files import DatasetFiles, bad_row
from featcache.data.sources import SPLIT_NAMES
from featcache.data.types import VideoRecord
from featcache.errors import ManifestError

_LISTS = {
    split: rf"(.*[-_])?({'|'.join(name for name, which in SPLIT_NAMES.items() if which == split)})\.csv"
    for split in ("train", "val", "test")
}
REPLACEMENTS = "replacement_for_corrupted_k400"
"""The folder of intact copies that is published beside the archives, for clips whose own file is broken."""
_NEEDED = ("youtube_id", "time_start", "time_end")


def list_kinetics(files: DatasetFiles) -> Iterator[VideoRecord]:
    """Rows of those of the train, val and test lists that exist; ids are ``<youtube_id>_<start>_<end>``."""
    found = {split: path for split, pattern in _LISTS.items() if (path := files.find_list(pattern))}
    if not found:
        raise ManifestError(
            f"{files.place} holds no 'train.csv', 'val.csv' or 'test.csv'; put the official lists there"
        )
    rows: dict[str, tuple[str, str, str]] = {}  # id -> (label, split, youtube id)
    for split, path in found.items():
        for place, row in read_csv(path, needed=_NEEDED, fold=True):
            clip_id, known = _clip(path, place, row, split)
            if rows.setdefault(clip_id, known) != known:
                raise bad_row(path, place, f"clip {clip_id!r} was listed before, as {rows[clip_id][:2]}")
    clips_of = Counter(youtube_id for _, _, youtube_id in rows.values())
    for clip_id, (label, split, youtube_id) in rows.items():
        # Some archives name a file by its YouTube id alone, which identifies a clip only if the video has no other.
        stems = (clip_id, youtube_id) if clips_of[youtube_id] == 1 else (clip_id,)
        folders = [split, label] if label else [split]
        labels = {"label": label, "group": youtube_id} if label else {"group": youtube_id}
        yield make_row(
            clip_id,
            found=files.video(*stems, only_in=REPLACEMENTS) or files.video(*stems, folders=folders),
            expected=f"{split}/{label}/{clip_id}.mp4" if label else f"{split}/{clip_id}.mp4",
            labels=labels,
            split=split,
        )


def _clip(path: Path, place: str, row: Mapping[str, str], split: str) -> tuple[str, tuple[str, str, str]]:
    label, youtube_id = squeezed(row.get("label", "").replace("_", " ")), row["youtube_id"]
    try:
        # The id may begin with "-"; times may be written 40 or 40.0.
        clip_id = f"{youtube_id}_{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
    except (ValueError, OverflowError) as error:
        raise bad_row(path, place, f"times {row['time_start']!r} and {row['time_end']!r} are no numbers") from error
    given = row.get("split", "")
    if given and given.casefold() not in SPLIT_NAMES:
        raise bad_row(path, place, f"split {given!r} is none of {', '.join(SPLIT_NAMES)}")
    return clip_id, (label, SPLIT_NAMES[given.casefold()] if given else split, youtube_id)


KINETICS = DatasetEntry(
    list_videos=list_kinetics,
    layout="{train,val,test}.csv; [train|val|test]/[<label>/]<youtube_id>_<start>_<end>.mp4",
)
"""Kinetics-400, 600 and 700, whose lists are alike."""
