"""The files of a data set's folder, found in one walk that does not open or measure any of them."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from featcache.data.cells import open_list
from featcache.data.remote import names_below, open_binary
from featcache.data.sources import VIDEO_SUFFIXES
from featcache.errors import ManifestError
from featcache.files.urls import shown, url_of

LIST_SUFFIXES = frozenset({".csv", ".json", ".txt"})


@dataclass(frozen=True)
class DatasetFiles:
    """The files under the root of a data set, as paths relative to it.

    Attributes:
        root: The folder.
        videos: Files with a video suffix, sorted.
        lists: ``.csv``, ``.json`` and ``.txt`` files, sorted.
    """

    root: Path
    videos: tuple[str, ...]
    lists: tuple[str, ...]

    @classmethod
    def under(cls, root: Path) -> "DatasetFiles":
        """Walk a folder, skipping hidden files and following symbolic links; a folder within itself is entered once.

        Raises:
            ManifestError: The folder does not exist or cannot be listed.
        """
        if url := url_of(root):
            paths = [path for path in names_below(url) if not any(part.startswith(".") for part in path.split("/"))]
        elif root.is_dir():
            paths = sorted(_walk(root, ancestors=frozenset(), prefix=""))
        else:
            raise ManifestError(f"{root} is not a folder; give --root the folder that holds the videos and the lists")
        return cls(
            root=root,
            videos=tuple(path for path in paths if _suffix(path) in VIDEO_SUFFIXES),
            lists=tuple(path for path in paths if _suffix(path) in LIST_SUFFIXES),
        )

    def video(
        self, *stems: str, folders: Sequence[str] = (), only_in: str | None = None, ignore_case: bool = False
    ) -> str | None:
        """The file of a video, whatever its suffix and folder; ``None`` if there is none.

        If several files have the name, the one that lies in more of ``folders`` is taken, then the first in sorted
        order.

        Args:
            stems: File names without suffix, of which the first that is found counts. They are names, not patterns.
            folders: Folders in which the file should be; spaces and underscores are treated alike.
            only_in: A folder that must directly contain the file.
            ignore_case: Accept a file whose name differs in case if no file has the exact name. (YouTube ids may differ
                only in case.)
        """
        for stem in stems:
            found = self._by_stem.get(stem, [])
            if not found and ignore_case:
                found = self._by_folded_stem.get(stem.casefold(), [])
            if only_in is not None:
                found = [path for path in found if plain(PurePosixPath(path).parent.name) == plain(only_in)]
            if len(found) == 1:
                return found[0]
            if found:
                return max(found, key=lambda path: _num_folders(path, folders))  # the first among equals
        return None

    def find_list(self, pattern: str) -> Path | None:
        """The only list whose file name matches a pattern, ignoring case; ``None`` if there is none.

        Raises:
            ManifestError: There are several, and it is unknown which one counts.
        """
        found = self.find_lists(pattern)
        if len(found) > 1:
            raise ManifestError(
                f"{self.place} holds {found[0].name!r} twice, at {_below(self.root, found[0])!r} and "
                f"{_below(self.root, found[1])!r}; leave the one that counts"
                if found[0].name == found[1].name
                else f"{self.place} holds {_below(self.root, found[0])!r} and {_below(self.root, found[1])!r}, two "
                "lists of one split; leave the one that counts"
            )
        return found[0] if found else None

    def find_lists(self, pattern: str) -> list[Path]:
        """All lists whose file name matches a pattern, ignoring case, sorted by path."""
        matches = re.compile(pattern, re.IGNORECASE).fullmatch
        return [self.root / path for path in self.lists if matches(PurePosixPath(path).name)]

    def need_list(self, pattern: str, name: str) -> Path:
        """As :meth:`find_list`, for a list that must exist.

        Raises:
            ManifestError: There is none, or there are several.
        """
        found = self.find_list(pattern)
        if found is None:
            raise ManifestError(f"{self.place} holds no {name!r}; put the official lists there, beside the videos")
        return found

    @property
    def place(self) -> str:
        """The root as people write it, for messages."""
        return shown(self.root)

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path in self.videos:
            found.setdefault(stem_of(path.rpartition("/")[2]), []).append(path)
        return found

    @cached_property
    def _by_folded_stem(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for stem, paths in self._by_stem.items():
            found.setdefault(stem.casefold(), []).extend(paths)
        return found


def stem_of(name: str) -> str:
    """A file name without its suffix, if that is the suffix of a video."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in VIDEO_SUFFIXES else name


def plain(name: str) -> str:
    """A label or folder name in the form in which it is compared: in one case, with spaces for underscores."""
    return name.replace("_", " ").casefold()


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(``line 3``, text) of the non-blank lines of a list, without surrounding white space."""
    with open_list(path) as file:
        for number, line in enumerate(file, start=1):
            if text := line.strip():
                yield f"line {number}", text


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ManifestError: It is not JSON.
    """
    try:
        with open_binary(path) as file:
            return json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{shown(path)} is not JSON ({error}); fetch the list again") from error


def bad_row(path: Path, place: str, problem: str) -> ManifestError:
    """The error for a row of an official list that cannot be used."""
    return ManifestError(f"{shown(path)}, {place}: {problem}; fix the line or fetch the list again")


def _walk(folder: Path, *, ancestors: frozenset[tuple[int, int]], prefix: str) -> Iterable[str]:
    try:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in ancestors:
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    yield from _walk(folder / entry.name, ancestors=ancestors | {here}, prefix=f"{prefix}{entry.name}/")
                else:
                    yield prefix + entry.name
    except OSError as error:
        raise ManifestError(f"folder {folder} cannot be listed ({error.strerror}); fix that or move it away") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()  # known from the listing of the parent folder, without a system call per file
    except OSError:  # a symbolic link to itself
        return False


def _suffix(path: str) -> str:
    return path[path.rfind(".") :].lower()


def _num_folders(path: str, folders: Sequence[str]) -> int:
    """Number of ``folders`` in a path; ``train`` also matches ``train_video`` and ``kinetics_400_train``."""
    parts = [f" {plain(part)} " for part in PurePosixPath(path).parts[:-1]]
    return sum(any(f" {name} " in part for part in parts) for name in map(plain, folders))


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
