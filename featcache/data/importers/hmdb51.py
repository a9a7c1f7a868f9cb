"""HMDB51 (Kuehne et al., ICCV 2011): 51 classes, three official splits of 70 + 30 clips per class.

``<class>_test_split<N>.txt`` has a line ``<file>.avi <number>`` per clip: 1 is for training, 2 for testing, and 0 is in
neither part and has no entry in the column of that split. File names contain ``#``, ``!``, ``&``, brackets and
parentheses.
"""

import re
from collections.abc import Iterator

from featcache.data.importers.base import DatasetEntry, make_row
from featcache.data.importers.files import DatasetFiles, bad_row, read_lines, stem_of
from featcache.data.types import VideoRecord
from featcache.errors import ManifestError

SPLIT_COLUMNS = ("split1", "split2", "split3")
_SPLITS = {"1": "train", "2": "test", "0": ""}
_LIST = re.compile(r"(.+)_test_split([123])\.txt", re.IGNORECASE)


def list_hmdb51(files: DatasetFiles) -> Iterator[VideoRecord]:
    """Union of the splits' lists, class after class; ids are ``<class>/<file name without suffix>``."""
    labels: dict[str, dict[str, str]] = {}
    expected: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    for path in sorted(files.find_lists(_LIST.pattern), key=lambda path: path.name):
        match = _LIST.fullmatch(path.name)
        assert match, f"{path.name} was found by this very pattern"
        name, number = match[1], match[2]
        if (name, number) in seen:
            raise ManifestError(f"{files.place} holds {path.name!r} twice; leave the one that counts")
        seen.add((name, number))
        for place, line in read_lines(path):
            file, kind = line.rsplit(maxsplit=1) if len(line.split()) > 1 else (line, "")
            if kind not in _SPLITS:
                raise bad_row(path, place, f"{line!r} is no <file> followed by 0, 1 or 2")
            stem = stem_of(file)
            row = labels.setdefault(f"{name}/{stem}", {"label": name, "group": _group(stem, name)})
            if (split := _SPLITS[kind]) and row.setdefault(f"split{number}", split) != split:
                raise bad_row(path, place, f"{file!r} is there twice, to train and to test")
            expected.setdefault(f"{name}/{stem}", f"videos/{name}/{file}")
    if not labels:
        raise ManifestError(
            f"{files.place} holds no '<class>_test_split1.txt'; put the folder testTrainMulti_7030_splits there"
        )
    for video_id, row in labels.items():
        stem = video_id.rpartition("/")[2]
        # Two classes may have a file of the same name, so the folder has to match.
        yield make_row(video_id, found=files.video(stem, only_in=row["label"]), expected=expected[video_id], labels=row)


def _group(stem: str, name: str) -> str:
    """The part before the class in ``<source>_<class>_<body part>_…_<clip number>``."""
    source, found, _ = stem.partition(f"_{name}_")
    return source if found else stem


HMDB51 = DatasetEntry(
    list_videos=list_hmdb51,
    layout="videos/<class>/<file>.avi; testTrainMulti_7030_splits/<class>_test_split{1,2,3}.txt",
    split_columns=SPLIT_COLUMNS,
)
