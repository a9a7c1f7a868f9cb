"""Fault injectors: damage that disks, kernels and operators do to a store.

Damage to files is undone at the end of the ``with`` block, so that one store can be used for many faults.
"""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import numpy as np

from featcache.files import claims, leases

# System calls that change the disk on the way from bytes to a commit record.
COMMIT_SYSCALLS = ("mkdir", "writev", "fsync", "linkat", "unlink")


def store_files(root: Path) -> list[Path]:
    """All files with content, without locks and temporary files, in a fixed order."""
    return sorted(
        path
        for path in root.rglob("*")
        if path.is_file()
        and not path.relative_to(root).as_posix().startswith("locks/")
        and not path.name.endswith(".tmp")
    )


def snapshot(root: Path) -> dict[str, bytes]:
    """Relative name to content of all files of :func:`store_files`."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in store_files(root)}


@dataclass(frozen=True, slots=True)
class DiskKind:
    """A kind of disk, by how it refuses what it lacks.

    Attributes:
        link_error: Error number of a hard link; 0: it has hard links.
        lock_error: Error number of a lock; 0: it has locks.
    """

    link_error: int = 0
    lock_error: int = 0

    @contextmanager
    def imitated(self, *, patience: float = 0.0) -> Generator[None]:
        """The disks of this process and of its forks lack this.

        Args:
            patience: Seconds after which a lease that stands still is taken over; claims are taken over at once.
        """

        def link(source: Any, target: Any, *, follow_symlinks: bool = True) -> NoReturn:
            sys.audit("os.link", source, target, -1, -1)
            raise OSError(self.link_error, os.strerror(self.link_error), source, None, target)

        def flock(descriptor: int, operation: int) -> NoReturn:
            raise OSError(self.lock_error, os.strerror(self.lock_error))

        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(claims, "PATIENCE_SECONDS", 0.0))
            stack.enter_context(mock.patch.object(leases, "DEAD_AFTER_SECONDS", patience))
            if self.link_error:
                stack.enter_context(mock.patch.object(os, "link", link))
            if self.lock_error:
                stack.enter_context(mock.patch.object(fcntl, "flock", flock))
            yield


DISKS = {
    "ordinary": DiskKind(),
    "no links": DiskKind(link_error=errno.EPERM),
    "no locks": DiskKind(lock_error=errno.ENOLCK),
    "neither": DiskKind(link_error=errno.ENOTSUP, lock_error=errno.ENOSYS),
}
"""Kinds of disks by name."""


@contextmanager
def restored(*paths: Path) -> Generator[None]:
    """Restore files at the end of the block."""
    contents = {path: path.read_bytes() for path in paths}
    try:
        yield
    finally:
        for path, content in contents.items():
            if path.is_symlink():
                path.unlink()
            path.write_bytes(content)


@contextmanager
def flipped_bit(path: Path, bit: int) -> Generator[None]:
    """One bit of a file is wrong."""
    with restored(path):
        content = bytearray(path.read_bytes())
        content[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(content)
        yield


@contextmanager
def truncated(path: Path, num_bytes: int) -> Generator[None]:
    """A file ends early."""
    with restored(path):
        path.write_bytes(path.read_bytes()[:num_bytes])
        yield


@contextmanager
def removed(path: Path) -> Generator[None]:
    """A file is gone."""
    with restored(path):
        path.unlink()
        yield


@contextmanager
def swapped(first: Path, second: Path) -> Generator[None]:
    """Two files carry each other's name."""
    with restored(first, second):
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
        yield


def random_bits(paths: Sequence[Path], *, count: int, seed: int) -> list[tuple[Path, int]]:
    """Bits to flip, as many in small files as in large ones, so that every kind of file is hit."""
    rng = np.random.default_rng(seed)
    filled = [path for path in paths if path.stat().st_size]
    chosen = [filled[number] for number in rng.integers(len(filled), size=count)]
    return [(path, int(rng.integers(8 * path.stat().st_size))) for path in chosen]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an injured process ended.

    Attributes:
        returncode: Exit status; a negative number is the signal that killed it.
        stderr: Its error output.
    """

    returncode: int
    stderr: str

    @property
    def was_killed(self) -> bool:
        """Whether ``SIGKILL`` ended it."""
        return self.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)


def has_strace() -> bool:
    """Whether ``strace`` is installed and allowed to trace."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", os.devnull, "true"], check=False, capture_output=True).returncode == 0


def count_syscalls(command: Sequence[str], *, syscalls: Sequence[str] = COMMIT_SYSCALLS) -> dict[str, int]:
    """Count how often a command makes each of some system calls."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "trace"
        subprocess.run(
            ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={','.join(syscalls)}", *command],
            check=True,
            capture_output=True,
        )
        text = log.read_text(errors="replace")
    return {name: text.count(f" {name}(") for name in syscalls}


def run_with_fault(command: Sequence[str], *, syscall: str, when: int, fault: str) -> Outcome:
    """Run a command whose ``when``-th call of ``syscall`` meets a fault.

    Args:
        command: Argument list.
        syscall: Name of the system call, e.g. ``linkat``.
        when: Number of the call, from 1.
        fault: ``signal=KILL`` kills the process as it enters the call; ``error=ENOSPC`` makes the call fail.
    """
    inject = f"inject={syscall}:{fault}:when={when}"
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={syscall}", "-e", inject, *command],
        check=False,
        capture_output=True,
        text=True,
    )
    return Outcome(done.returncode, done.stderr)


def kill_after(command: Sequence[str], *, seconds: float, once: Path) -> Outcome:
    """Run a command and kill it with ``SIGKILL`` some seconds after ``once`` exists, unless it ends before."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not once.exists():
        time.sleep(0.001)
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    _, stderr = process.communicate()
    return Outcome(process.returncode, stderr)


def run_together(command: Sequence[str], *, count: int) -> list[Outcome]:
    """Run copies of a command at the same time."""
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(count)]
    stderrs = [process.communicate()[1] for process in processes]
    return [Outcome(process.returncode, text) for process, text in zip(processes, stderrs, strict=True)]


@contextmanager
def small_disk(num_bytes: int) -> Generator[Path | None]:
    """A file system of a fixed size; yields its folder, or ``None`` where this user may not mount one."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", folder]
        mounted = shutil.which("mount") and subprocess.run(mount, check=False, capture_output=True).returncode == 0
        try:
            yield Path(folder) if mounted else None
        finally:
            if mounted:
                subprocess.run(["umount", folder], check=True, capture_output=True)


def decoding_workers(process: int) -> list[int]:
    """Process ids of running decoding workers that a process has started, recognised by their command line.

    A worker names its parent in its command line, so that a worker that outlives it is found too.
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().rstrip(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"featcache.data.decoding.worker" in command and command.endswith(f", {process})".encode()):
            found.append(int(folder.name))
    return sorted(found)
