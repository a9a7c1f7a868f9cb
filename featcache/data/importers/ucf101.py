"""UCF101 (Soomro et al., 2012): 13,320 clips of 101 classes, three official splits by group.

``classInd.txt`` (``1 ApplyEyeMakeup``), ``trainlist01.txt`` (``ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1``) and
``testlist01.txt`` (only the path), and so on to 03. The class is the folder that the lists name, not the number, which
test lists leave out.
"""

import re
from collections.abc import Iterator

from featcache.data.importers.base import DatasetEntry, make_row
from featcache.data.importers.files import DatasetFiles, bad_row, plain, read_lines, stem_of
from featcache.data.types import VideoRecord
from featcache.errors import ManifestError

SPLIT_COLUMNS = ("split1", "split2", "split3")
_GROUP = re.compile(r"(.+_g\d+)_c\d+", re.IGNORECASE)


def list_ucf101(files: DatasetFiles) -> Iterator[VideoRecord]:
    """Union of the splits' lists, in their order; ids are file names without suffix."""
    classes = _read_classes(files)
    labels: dict[str, dict[str, str]] = {}
    expected: dict[str, str] = {}
    for number, column in enumerate(SPLIT_COLUMNS, start=1):
        if not files.find_lists(rf"(train|test)list0{number}\.txt"):
            continue
        for split in ("train", "test"):
            path = files.need_list(rf"{split}list0{number}\.txt", f"{split}list0{number}.txt")
            for place, line in read_lines(path):
                entry = re.sub(r"\s+\d+$", "", line)  # a train list ends in the class number
                folder, slash, name = entry.rpartition("/")
                if not slash:
                    raise bad_row(path, place, f"{line!r} is no <Class>/<file>")
                stem = stem_of(name)
                label = classes.get(plain(folder), folder)
                if classes and plain(folder) not in classes:
                    raise bad_row(path, place, f"class {folder!r} is not in classInd.txt")
                row = labels.setdefault(stem, {"label": label, "group": _group(stem)})
                if row.setdefault(column, split) != split:
                    raise bad_row(path, place, f"{entry!r} is in the train and the test list of split {number}")
                expected.setdefault(stem, f"UCF-101/{entry}")
    if not labels:
        raise ManifestError(
            f"{files.place} holds no 'trainlist01.txt'; put the folder ucfTrainTestlist of the official lists there"
        )
    for stem, row in labels.items():
        yield make_row(
            stem, found=files.video(stem, folders=[row["label"]], ignore_case=True), expected=expected[stem], labels=row
        )


def _read_classes(files: DatasetFiles) -> dict[str, str]:
    """Class names by the form in which they are compared: folder HandstandPushups has files v_HandStandPushups_…."""
    path = files.find_list(r"classInd\.txt")
    if path is None:
        return {}
    classes: dict[str, str] = {}
    for place, line in read_lines(path):
        match line.split():
            case [number, name] if number.isdigit():
                classes[plain(name)] = name
            case _:
                raise bad_row(path, place, f"{line!r} is no <number> <Class>")
    return classes


def _group(stem: str) -> str:
    match = _GROUP.fullmatch(stem)
    return match[1] if match else stem


UCF101 = DatasetEntry(
    list_videos=list_ucf101,
    layout="UCF-101/<Class>/v_<Class>_gNN_cNN.avi; ucfTrainTestlist/{classInd,trainlist0N,testlist0N}.txt",
    split_columns=SPLIT_COLUMNS,
)
