"""Decoding jobs that go wrong on chosen videos: at module level, so that worker processes can import them.

A video misbehaves by the name of its file, in the middle of its rows.
"""

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
        case "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "crashes_once" if not (marker := path.with_suffix(".crashed")).exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        case "disk_fails" if not (marker := path.with_suffix(".failed")).exists():
            marker.touch()
            raise OSError(5, "Input/output error", str(path))
