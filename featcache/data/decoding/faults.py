"""Whose fault is it: the video's (a ledger row) or the machine's (an error that stops the run)?"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featcache.data.decoding.heartbeat import beat
from featcache.data.decoding.memory import is_capped, too_much
from featcache.errors import FeatcacheError, VideoError

# Faults of the machine: they propagate as OSError, and no video is called bad for them.
TRANSIENT = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "EMFILE", "ENFILE", "ENOMEM", "ESTALE", "EAGAIN", "EINTR", "EBUSY", "ETIMEDOUT", "ENODEV", "ENXIO"),
        *("ECONNRESET", "ECONNABORTED", "ENOTCONN", "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH"),
        *("EREMOTEIO", "ENOLINK", "ESHUTDOWN"),
    )
    if hasattr(errno, name)
)

# Of these, the ones that may be of one file alone: a bad sector, a stale handle. The file is `unreadable`, and the run
# goes on; it is tried again later.
UNREADABLE = frozenset(
    getattr(errno, name) for name in ("EIO", "EREMOTEIO", "ESTALE", "ETIMEDOUT") if hasattr(errno, name)
)

# What reading the file once more would not show.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


@contextmanager
def blaming_the_video() -> Iterator[None]:
    """A file that is not there or may not be read is ``missing``; a fault of the machine stays an OSError."""
    try:
        yield
    except OSError as error:
        if error.errno in TRANSIENT:
            raise
        raise VideoError("missing", f"it cannot be read ({error.strerror})") from error


def check_readable(path: Path) -> None:
    """Check that ``path`` is a file with bytes in it that may be read.

    Raises:
        VideoError: ``missing`` (absent, a folder, no permission) or ``undecodable`` (empty).
        OSError: The machine is at fault.
    """
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise VideoError("undecodable", "the file is empty (0 bytes)")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VideoError("missing", "there is no such file") from error
    except IsADirectoryError as error:
        raise VideoError("missing", "it is a folder, not a file") from error
    except PermissionError as error:
        raise VideoError("missing", "it may not be read (permission denied)") from error


def blame(path: Path, error: Exception, what: str) -> VideoError | OSError:
    """The exception to raise for a library's ``error``: ``undecodable`` unless the machine is at fault.

    A decoder's word is no evidence: it reports a failing disk as invalid data, a Matroska file that is cut as an I/O
    error and a giant raw picture as a busy device. So the file is read through once, which tells whose fault it is.

    Args:
        path: The file.
        error: What the decoder said.
        what: What failed, e.g. ``"cannot be opened as a video"``.
    """
    code = getattr(error, "errno", None)
    if isinstance(error, MemoryError):
        code = errno.ENOMEM
    if code == errno.ENOMEM and is_capped():
        return VideoError("undecodable", too_much())
    if code in _EXHAUSTED:
        return OSError(code, str(getattr(error, "strerror", None) or error), str(path))
    try:
        check_readable(path)
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 22):
                beat()
    except (VideoError, OSError) as fault:
        return fault
    return VideoError("undecodable", f"{what}: {getattr(error, 'strerror', None) or error}")


@contextmanager
def blaming_the_decoder(path: Path, decoder: str) -> Iterator[None]:
    """Whatever a decoder raises that it should not (an ``IndexError`` of a mutated stream) is the video's fault.

    Raises:
        VideoError: ``undecodable``, naming the decoder and its exception.
        OSError: The machine is at fault.
    """
    try:
        yield
    except (FeatcacheError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and type(error).__module__ == "builtins":  # libraries' own are subclasses
            raise
        raise blame(path, error, f"{decoder} fails with {type(error).__name__}") from error
