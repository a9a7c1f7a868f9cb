"""A two-hour video takes no more memory than one of two minutes: rows leave a decoder as they are complete."""

import os
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest

import featcache
from featcache.testing.faults import decoding_workers
from featcache.testing.videos import write_video

FPS = 25
STRIDE = 25


def peak_bytes(process: int) -> int:
    """The most memory a process has held; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), 0)


def extract_watched(folder: Path) -> tuple[int, int]:
    """Extract a frame bank in a process of its own; its peak memory and that of its largest worker, in bytes."""
    command = [
        *(sys.executable, "-m", "featcache", "extract", "videos", "--backbone", "timm/tf_efficientnet_lite0"),
        *("--weights", "random", "--layout", "frames", "--stride", str(STRIDE), "--device", "cpu", "--out", "store"),
        *("--set", "features.0.input_size=32", "--set", "features.0.name=pooled", "--set", "runtime.threads=1"),
    ]
    peaks: dict[int, int] = {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for one in (process.pid, *decoding_workers(process.pid)):
                peaks[one] = max(peaks.get(one, 0), peak_bytes(one))
            time.sleep(0.02)
    assert process.returncode == 0
    own = peaks.pop(process.pid)
    return own, max(peaks.values())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_does_not_grow_with_the_video(tmp_path):
    peaks = {}
    for minutes in (2, 120):
        folder = tmp_path / str(minutes)
        (folder / "videos").mkdir(parents=True)
        num_frames = minutes * 60 * FPS
        write_video(
            folder / "videos" / "long.mp4",
            num_frames=num_frames,
            options={"preset": "ultrafast", "crf": "35"},
            width=64,
            height=48,
            fps=FPS,
            time_base=Fraction(1, FPS),
        )
        began = time.monotonic()
        peaks[minutes] = extract_watched(folder)
        print(
            f"{minutes} minutes: {[f'{peak / 1e6:.0f} MB' for peak in peaks[minutes]]} {time.monotonic() - began:.0f} s"
        )
        features = featcache.open(folder / "store").feature("pooled")
        assert features.num_rows == num_frames // STRIDE
        assert features.rows.pts_seconds[-1, 0] == pytest.approx(minutes * 60 - 1)
    for short, long in zip(*peaks.values(), strict=True):
        assert long < 1.2 * short
