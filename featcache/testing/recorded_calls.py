"""A layer under :mod:`featcache.files` that records every call which changes a folder or makes it durable.

While a recording runs, the functions of ``os`` through which the store writes record each call and pass it on. Python's
audit events reveal every other way to change a file: if recorded calls and events differ, the recording fails. Bytes
that are written to a file without Python are noticed when the disk of :mod:`featcache.testing.crash_model` is compared
with the folder.
"""

import os
import stat
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal
from unittest import mock

Kind = Literal["open", "create", "write", "fsync", "link", "rename", "unlink", "mkdir", "rmdir"]
Name = str | os.PathLike[str]

_CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Audit events that change names or content, with the number of their arguments that are names.
_EVENTS = {
    **{f"os.{name}": 1 for name in ("remove", "mkdir", "rmdir", "truncate", "chmod", "utime", "mkfifo", "mknod")},
    **{f"os.{name}": 2 for name in ("link", "rename", "symlink")},
    "open": 1,
}


@dataclass(frozen=True, slots=True)
class Call:
    """A call that succeeded.

    Attributes:
        kind: Kind of call; ``open`` is for reading, ``create`` makes a new file.
        names: Names of its arguments, relative to the folder; empty for ``write`` and ``fsync``.
        handle: Number of the open file or folder that is written, synced or created.
        data: Bytes that were written.
        truncates: Whether opening has emptied the file.
    """

    kind: Kind
    names: tuple[str, ...] = ()
    handle: int = -1
    data: bytes = b""
    truncates: bool = False

    @property
    def changes(self) -> bool:
        """Whether a crash before the call may leave other contents than one after it."""
        return self.kind != "open" or self.truncates

    def __str__(self) -> str:
        return " ".join([self.kind, *self.names, *([f"#{self.handle}"] if self.handle >= 0 else [])])


class Recording:
    """Calls on the files below a folder. See :func:`recording`.

    Attributes:
        folder: The folder; it is itself named ``""``.
        calls: Successful calls, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[Call] = []
        self._noted: list[tuple[str, ...]] = []  # attempts, by the names of their audit events
        self._audited: list[tuple[str, ...]] = []
        self._handles: dict[int, tuple[int, int, int]] = {}  # descriptor to handle, device, inode
        self._num_handles = 0

    def name(self, path: Name) -> str | None:
        """The name of a path below the folder, or ``None`` for a path elsewhere."""
        relative = os.path.relpath(path, self.folder)
        if relative == ".":
            return ""
        return None if relative.split(os.sep, 1)[0] == os.pardir else relative

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Record an event that changes something below the folder."""
        if event not in _EVENTS or (event == "open" and not (arguments[2] or 0) & _CHANGES):
            return
        paths = arguments[: _EVENTS[event]]
        if event == "open" and isinstance(paths[0], int):  # a Python file for an open descriptor
            return
        if any(isinstance(path, int) for path in paths):
            self._audited.append((event, "by descriptor"))
            return
        names = [self.name(os.fsdecode(path)) for path in paths]
        if any(name is not None for name in names):
            self._audited.append((event, *map(str, names)))

    def check_complete(self) -> None:
        """Check that every event belongs to a recorded call.

        Raises:
            AssertionError: Something below the folder was changed without the recorded functions.
        """
        missed = [event for event in self._audited if event not in self._noted]
        assert self._audited == self._noted, f"the recording has missed {missed or self._audited}"

    def functions(self) -> dict[str, Callable[..., Any]]:
        """Replacements of the functions of ``os``. Their signatures refuse options that the store does not use."""
        real = {name: getattr(os, name) for name in ("open", "close", "link", "mkdir", "rmdir", "unlink", "replace")}
        real |= {name: getattr(os, name) for name in ("fsync", "write", "writev")}

        def open_(path: Name, flags: int, mode: int = 0o777) -> int:
            name = self.name(path)
            if name is not None and flags & _CHANGES:
                self._noted.append(("open", name))
            descriptor: int = real["open"](path, flags, mode)
            self._handles.pop(descriptor, None)
            if name is not None:
                found = os.fstat(descriptor)
                self._handles[descriptor] = (self._num_handles, found.st_dev, found.st_ino)
                kind: Kind = "create" if flags & os.O_CREAT else "open"
                truncates = bool(flags & os.O_TRUNC)
                self.calls.append(Call(kind, (name,), handle=self._num_handles, truncates=truncates))
                self._num_handles += 1
            return descriptor

        def close(descriptor: int) -> None:
            self._handles.pop(descriptor, None)
            real["close"](descriptor)

        def write(descriptor: int, data: bytes) -> int:
            written: int = real["write"](descriptor, data)
            self._on_handle("write", descriptor, bytes(data)[:written])
            return written

        def writev(descriptor: int, buffers: Sequence[bytes]) -> int:
            written: int = real["writev"](descriptor, buffers)
            self._on_handle("write", descriptor, b"".join(map(bytes, buffers))[:written])
            return written

        def fsync(descriptor: int) -> None:
            real["fsync"](descriptor)
            self._on_handle("fsync", descriptor)

        def link(source: Name, target: Name, *, follow_symlinks: bool = True) -> None:
            with self._on_names("link", "os.link", source, target):
                real["link"](source, target, follow_symlinks=follow_symlinks)

        def replace(source: Name, target: Name) -> None:
            with self._on_names("rename", "os.rename", source, target):
                real["replace"](source, target)

        def unlink(path: Name) -> None:
            with self._on_names("unlink", "os.remove", path):
                real["unlink"](path)

        def mkdir(path: Name, mode: int = 0o777) -> None:
            with self._on_names("mkdir", "os.mkdir", path):
                real["mkdir"](path, mode)

        def rmdir(path: Name) -> None:
            with self._on_names("rmdir", "os.rmdir", path):
                real["rmdir"](path)

        return {
            "open": open_,
            "close": close,
            "write": write,
            "writev": writev,
            "fsync": fsync,
            "fdatasync": fsync,
            "link": link,
            "replace": replace,
            "rename": replace,
            "unlink": unlink,
            "remove": unlink,
            "mkdir": mkdir,
            "rmdir": rmdir,
        }

    def _on_handle(self, kind: Kind, descriptor: int, data: bytes = b"") -> None:
        if descriptor in self._handles:
            handle, *identity = self._handles[descriptor]
            found = os.fstat(descriptor)
            assert [found.st_dev, found.st_ino] == identity, "a descriptor was closed past the recorded functions"
            assert kind == "fsync" or stat.S_ISREG(found.st_mode), "only files are written to"
            self.calls.append(Call(kind, handle=handle, data=data))

    @contextmanager
    def _on_names(self, kind: Kind, event: str, *paths: Name) -> Generator[None]:
        names = [self.name(path) for path in paths]
        inside = [name for name in names if name is not None]
        if inside:
            assert len(inside) == len(names), f"{kind} from or to a place outside {self.folder}"
            self._noted.append((event, *inside))
        yield
        if inside:
            self.calls.append(Call(kind, tuple(inside)))


_running: list[Recording] = []


@cache
def _listen() -> None:
    """Install one hook for all recordings, because hooks cannot be removed again."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        for one in _running:
            one.audit(event, arguments)

    sys.addaudithook(hook)


@contextmanager
def recording(folder: Path) -> Generator[Recording]:
    """Record what a ``with`` block does to the files below a folder in this thread and process.

    Args:
        folder: An existing folder. Its present contents are not recorded.

    Raises:
        AssertionError: The block has changed something in a way that cannot be recorded.
    """
    _listen()
    made = Recording(folder)
    with ExitStack() as stack:
        for name, function in made.functions().items():
            stack.enter_context(mock.patch.object(os, name, function))
        _running.append(made)
        stack.callback(_running.remove, made)
        yield made
    made.check_complete()
