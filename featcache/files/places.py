"""Rules for the place of files: local paths, nothing behind a symbolic link, and enough room on the disk."""

import os
import re
import shutil
from pathlib import Path

from featcache.errors import ConfigError, CorruptStoreError
from featcache.files.urls import url_of

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/", re.ASCII)  # pathlib makes one slash of two


def safe_join(root: Path, name: str, *, may_be_link: bool = False) -> Path:
    """``root / name`` for a name from a file, or for any place of a store that is read or written.

    ``root`` itself may be reached through symbolic links; nothing below it may be one, whether it leads out or not.

    Args:
        root: The folder.
        name: A place in it.
        may_be_link: Whether the place itself may be a link, which is then not followed.

    Raises:
        CorruptStoreError: The name is absolute, contains ``..``, NUL or a backslash, or leads through a symbolic link,
            which the message names.
    """
    check_name(name, root)
    parts = name.split("/")
    place = str(root)
    for part in parts[:-1] if may_be_link else parts:
        place = f"{place}/{part}"
        if os.path.islink(place):  # noqa: PTH114  a hundred thousand of these open a large store
            raise CorruptStoreError(
                f"{place} is a symbolic link; a store has none, remove it or put the file or folder itself in its place"
            )
    return root / name


def check_name(name: str, root: object) -> None:
    """Refuse a name that is no plain relative path.

    Raises:
        CorruptStoreError: It is absolute, or contains ``..``, NUL or a backslash.
    """
    if not name or "\0" in name or "\\" in name or any(part in {"", ".", ".."} for part in name.split("/")):
        raise CorruptStoreError(
            f"file name {name!r} in {root} is not a plain relative path; the store was tampered with"
        )


def check_local(path: Path | str) -> None:
    """Refuse a URL in place of a path, which ``pathlib`` would turn into a folder ``s3:``.

    Raises:
        ConfigError: The path begins with a scheme.
    """
    if _SCHEME.match(str(path)):
        raise ConfigError(
            f"{str(path)!r} begins with a scheme, and only videos and stores can lie in a bucket; mount it, or copy "
            "it to or from a local folder"
        )


def room_for_store(place: Path | str) -> int | None:
    """Number of bytes that a store at a place can still take; ``None`` in a bucket, which has no end."""
    return None if url_of(Path(place)) else free_bytes(Path(place))


def free_bytes(path: Path) -> int:
    """Number of bytes that can still be written at ``path`` or, if it does not exist yet, at its nearest parent."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def is_under(path: str, folder: str) -> bool:
    """Whether a path is a folder or lies in it, as text."""
    return path == folder or path.startswith(f"{folder}/")


def folders_of(path: str) -> list[str]:
    """A path, and every folder of which :func:`is_under` says that the path lies in it."""
    return [path, *(path[:place] for place, letter in enumerate(path) if letter == "/")]
