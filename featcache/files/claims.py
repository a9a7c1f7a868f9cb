"""Publication on disks without hard links: by renaming folders.

A folder can be renamed to the name of another one only while that is empty, and of several processes that try, one
succeeds. Each name has such a folder, its *claim*: a process writes and syncs its file in a temporary folder, which it
renames to the claim, with the file in it. While the file is there, nobody else gets the claim. If the name is still
free, the process then renames its file out of the claim to the name.

That a name is never given twice: a file gets it only by a rename out of the claim, which its process has found full of
that file alone before it found the name free. The rename fails if the file has left the claim meanwhile; as long as it
is there, no other file can be in the claim, so none can get the name. This holds however slowly each process runs.

A killed process leaves its file in the claim. Whoever wants the name waits a moment and then removes that file, which
is safe even if its process is alive: its rename fails, and it begins anew. The moment only avoids that in most cases.

All this takes of a disk: folders are renamed atomically and never over a full one, files are renamed atomically, and a
process sees what was in a folder before its own last change of it.
"""

import errno
import os
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from featcache.files import publish
from featcache.files.sealed import Bytes

PATIENCE_SECONDS = 0.1


def put_new(path: Path, data: Bytes | Iterable[Bytes]) -> bool:
    """Publish a file unless its name is taken. As :func:`featcache.files.publish.put_new`, without hard links.

    No process may publish the same name by a hard link at the same time.
    """
    publish.ensure_folder(path.parent)
    chunks = (data,) if isinstance(data, (bytes, np.ndarray)) else tuple(data)
    published = False if _is_taken(path) else None
    while published is None:
        with publish.explained(path, "write"):
            published = _attempt(path, chunks)
    publish.sync_folder(path.parent)  # also where the process that took the name may have died before syncing
    return published


def put_exact(path: Path, data: bytes | tuple[Bytes, ...]) -> None:
    """As :func:`featcache.files.publish.put_exact`, without hard links."""
    if not put_new(path, data):
        publish.heal(path, data)


def _is_taken(path: Path) -> bool:
    with publish.explained(path, "write"):
        try:
            path.lstat()
        except FileNotFoundError:
            return False
    return True


def _attempt(path: Path, chunks: tuple[Bytes, ...]) -> bool | None:
    """Whether the file was published; ``None`` if another process has ended the claim."""
    box = path.with_name(f".{path.name}.{secrets.token_hex(8)}{publish.TEMP_SUFFIX}")
    claim = path.with_name(f".{path.name}.claim{publish.TEMP_SUFFIX}")
    box.mkdir()
    try:
        file = publish.write_temp(box / path.name[:100], chunks)
        written = file.lstat()
        _rename(box, claim, file.name)
    except BaseException:
        _empty(box)
        raise
    try:
        return _move(claim / file.name, path, written)
    finally:
        with suppress(OSError):  # another process has it; or gc removes it
            claim.rmdir()


def _rename(box: Path, claim: Path, name: str) -> None:
    """Rename a folder to the claim once that is empty, or has stayed full of the same file for a while."""
    former: list[Path] = []
    while True:
        try:
            box.rename(claim)
        except OSError as error:
            if os.path.lexists(claim / name):  # a network has asked twice
                return
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        else:
            return
        held = _files(claim)
        if held and held == former:
            for file in held:
                file.unlink(missing_ok=True)
            continue
        former = held
        time.sleep(PATIENCE_SECONDS * (1 + secrets.randbelow(100) / 100))


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _move(file: Path, path: Path, written: os.stat_result) -> bool | None:
    """Give a file its name out of the claim unless that is taken; ``None`` if another process has removed it."""
    try:
        if _is_taken(path):
            file.unlink(missing_ok=True)
            return False
        file.rename(path)
    except FileNotFoundError:
        return True if publish.is_file(path, written) else None
    except BaseException:
        with suppress(OSError):  # the original error matters more than a left-over
            file.unlink()
        raise
    return True


def _empty(box: Path) -> None:
    with suppress(OSError):  # the original error matters more than a left-over that gc removes
        for file in _files(box):
            file.unlink()
        box.rmdir()
