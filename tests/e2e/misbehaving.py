"""Decoding jobs that go wrong on chosen videos: at module level, so that worker processes can import them.

A video misbehaves by the name of its file, in the middle of its rows.
"""

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from featcache.data.decoding.clips import RowBatch
from featcache.extract.jobs import RowDetails, SegmentJob, decode_segment


def decode(job: SegmentJob) -> Iterator[RowDetails | RowBatch]:
    """As :func:`featcache.extract.jobs.decode_segment`, but for the videos that misbehave after their first payload."""
    path = Path(job.path)
    for number, payload in enumerate(decode_segment(job)):
        if number == 1:
            _misbehave(path)
        yield payload


def timed(job: SegmentJob) -> Iterator[tuple[float, RowDetails | RowBatch]]:
    """As :func:`featcache.extract.jobs.timed_segment`, with the same misbehaviour."""
    for payload in decode(job):
        yield 0.5, payload


def _misbehave(path: Path) -> None:
    match path.stem:
        case "hangs":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "hangs_once" if not (marker := path.with_suffix(".hung")).exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        case "killed_once" if not (marker := path.with_suffix(".killed")).exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        case "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "crashes_once" if not (marker := path.with_suffix(".crashed")).exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        case "no_descriptors" if not (marker := path.with_suffix(".failed")).exists():
            marker.touch()
            raise OSError(errno.EMFILE, "Too many open files")
        case "disk_fails_once" if not (marker := path.with_suffix(".failed")).exists():
            marker.touch()
            raise OSError(errno.EIO, "Input/output error")
        case "disk_fails":
            raise OSError(errno.EIO, "Input/output error")
