"""Assigns files of a folder to videos when the file name alone is not the id: by a pattern, or a known layout.

``video_features``, a widely used extractor, writes ``<video>_<feature>.npy`` and beside it ``<video>_fps.npy``, a
number, and ``<video>_timestamps_ms.npy``, the time of each row. This module works on names only; no file is opened.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from featcache.errors import ConfigError, ExchangeError

_RATE, _TIMES = "_fps.npy", "_timestamps_ms.npy"
_FIELDS = {"{id}": "(?P<id>.+)", "{label}": "(?P<label>[^/]+)", "{split}": "(?P<split>[^/]+)", "*": "[^/]*"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An array with the facts that follow from its path.

    Attributes:
        path: The file, relative to the folder.
        video: The video, as a path; ``None``: the path of the file without ``.npy``.
        label: Label, if a pattern gives it.
        split: Split, if a pattern gives it.
        rate: The file of its frame rate, if there is one.
        times: The file of its rows' times in milliseconds, if there is one.
    """

    path: str
    video: str | None = None
    label: str | None = None
    split: str | None = None
    rate: str | None = None
    times: str | None = None


def place(paths: Iterable[str], *, pattern: str | None) -> list[Placed]:
    """Assign each array to its video, with its files of rate and times; files that do not match a pattern are left out.

    Args:
        paths: All ``.npy`` files, relative to their folder.
        pattern: See :func:`compile_pattern`; ``None``: the known layouts.

    Raises:
        ExchangeError: No file matches the pattern, or a video has several arrays and it is unknown which one to take.
    """
    paths = sorted(paths)
    companions = _companions(paths)
    taken = {name for pair in companions.values() for name in pair if name is not None}
    placed = []
    for path in paths:
        video = _video_of(path, companions)
        rate, times = companions[video] if video is not None else (None, None)
        if pattern is not None:
            if match := compile_pattern(pattern).fullmatch(path):
                found = match.groupdict()
                label, split = found.get("label"), found.get("split")
                placed.append(Placed(path=path, video=found["id"], label=label, split=split, rate=rate, times=times))
        elif path not in taken:
            placed.append(Placed(path=path, video=video, rate=rate, times=times))
    if pattern is not None and paths and not placed:
        raise ExchangeError(f"no .npy file fits the pattern {pattern!r}; they look like {paths[0]!r}")
    _check_one_each(placed)
    return placed


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a pattern of paths: ``{id}``, ``{label}`` and ``{split}`` stand for these, ``*`` for anything in a name.

    Raises:
        ConfigError: It has no ``{id}``, one of the fields twice, or braces around something else.
    """
    parts = re.split(r"(\{[^{}]*\}|\*)", pattern)
    names = [part for part in parts if part.startswith("{")]
    if strangers := [name for name in names if name not in _FIELDS]:
        raise ConfigError(f"pattern {pattern!r} has {strangers[0]!r}; it knows {{id}}, {{label}}, {{split}} and *")
    if names.count("{id}") != 1 or len(set(names)) != len(names):
        raise ConfigError(f"pattern {pattern!r} needs {{id}} once, and each of the others at most once")
    return re.compile("".join(_FIELDS.get(part) or re.escape(part) for part in parts), re.DOTALL)


def _companions(paths: list[str]) -> Mapping[str, tuple[str | None, str | None]]:
    """Files of rate and times by video (with its folder), for videos that have an array beside them."""
    there = set(paths)
    ends = (_RATE, _TIMES)
    videos = {path.removesuffix(end) for path in paths for end in ends if path.endswith(end)}
    arrays = [path for path in paths if not path.endswith(ends)]
    pairs: dict[str, tuple[str | None, str | None]] = {
        video: (
            video + _RATE if video + _RATE in there else None,
            video + _TIMES if video + _TIMES in there else None,
        )
        for video in videos
    }
    owners = {_video_of(path, pairs) for path in arrays}
    return {video: pair for video, pair in pairs.items() if video in owners}


def _video_of(path: str, videos: Mapping[str, object]) -> str | None:
    """The longest of ``videos`` to which an array ``<video>_<feature>.npy`` can belong."""
    stem = path
    while "_" in PurePosixPath(stem).name:
        stem = stem.rpartition("_")[0]
        if stem in videos:
            return stem
    return None


def _check_one_each(placed: list[Placed]) -> None:
    seen: dict[str, str] = {}
    for one in placed:
        if one.video is not None and (other := seen.setdefault(one.video, one.path)) != one.path:
            end = one.path.removeprefix(one.video)
            raise ExchangeError(
                f"{other!r} and {one.path!r} are both of {one.video!r}; say which with a pattern, e.g. '{{id}}{end}'"
            )
