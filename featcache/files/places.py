"""Where files may be: local paths alone, nothing behind a symbolic link, and as much as the disk has room for."""

import os
import re
import shutil
from pathlib import Path

from featcache.errors import ConfigError, CorruptStoreError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/", re.ASCII)  # pathlib makes one slash of two


def safe_join(root: Path, name: str) -> Path:
    """``root / name`` for a name out of a file, or for any place of a store that is read or written.

    ``root`` itself may be reached through symbolic links; nothing below it may be one, whether it leads out or not.

    Raises:
        CorruptStoreError: Absolute, with ``..``, NUL or a backslash, or on its way is a symbolic link, which is named.
    """
    parts = name.split("/")
    if not name or "\0" in name or "\\" in name or any(part in {"", ".", ".."} for part in parts):
        raise CorruptStoreError(f"file name {name!r} in {root} is no plain relative path; the store was tampered with")
    place = str(root)
    for part in parts:
        place = f"{place}/{part}"
        if os.path.islink(place):  # noqa: PTH114  a hundred thousand of these open a large store
            raise CorruptStoreError(
                f"{place} is a symbolic link; a store has none, put the file or folder itself in its place"
            )
    return root / name


def check_local(path: Path | str) -> None:
    """Refuse a URL where a path belongs, of which ``pathlib`` would make a folder ``s3:``.

    Raises:
        ConfigError: It begins with a scheme.
    """
    if _SCHEME.match(str(path)):
        raise ConfigError(
            f"{str(path)!r} begins with a scheme, and featcache reads and writes local paths alone so far; mount it, "
            "or copy it to or from a local folder"
        )


def free_bytes(path: Path) -> int:
    """Bytes that may still be written at ``path`` or, if it does not exist yet, at its nearest parent."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
