"""Decides whether a fault is the video's (a ledger row) or the machine's (an error that stops the run)."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featcache.data.decoding.heartbeat import beat
from featcache.data.decoding.memory import is_capped, too_much
from featcache.errors import FeatcacheError, VideoError

# Faults of the machine: they propagate as OSError and are not recorded as faults of a video.
TRANSIENT = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "EMFILE", "ENFILE", "ENOMEM", "ESTALE", "EAGAIN", "EINTR", "EBUSY", "ETIMEDOUT", "ENODEV", "ENXIO"),
        *("ECONNRESET", "ECONNABORTED", "ENOTCONN", "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH"),
        *("EREMOTEIO", "ENOLINK", "ESHUTDOWN"),
    )
    if hasattr(errno, name)
)

# Those of them that may concern a single file: a bad sector, a stale handle. The file is `unreadable`, the run goes on,
# and the file is tried again later.
UNREADABLE = frozenset(
    getattr(errno, name) for name in ("EIO", "EREMOTEIO", "ESTALE", "ETIMEDOUT") if hasattr(errno, name)
)

# Faults that would not appear if the file were read once more.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


@contextmanager
def blaming_the_video() -> Iterator[None]:
    """Turn a file that does not exist or may not be read into ``missing``; a fault of the machine stays an OSError."""
    try:
        yield
    except OSError as error:
        if error.errno in TRANSIENT:
            raise
        raise VideoError("missing", f"it cannot be read ({error.strerror})") from error


def check_readable(path: Path) -> None:
    """Check that ``path`` is a readable file that is not empty.

    Raises:
        VideoError: ``missing`` (absent, a folder, no permission) or ``undecodable`` (empty).
        OSError: The machine failed, not the video.
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

    A decoder's error code is not reliable: it reports a failing disk as invalid data, a truncated Matroska file as an
    I/O error and a giant raw picture as a busy device. So the whole file is read once, which shows whose fault it is.

    Args:
        path: The file.
        error: The decoder's exception.
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
    """Treat an unexpected exception of a decoder (e.g. an ``IndexError`` on a damaged stream) as the video's fault.

    Raises:
        VideoError: ``undecodable``, naming the decoder and its exception.
        OSError: The machine failed, not the video.
    """
    try:
        yield
    except (FeatcacheError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and type(error).__module__ == "builtins":  # libraries raise subclasses
            raise
        raise blame(path, error, f"{decoder} fails with {type(error).__name__}") from error
