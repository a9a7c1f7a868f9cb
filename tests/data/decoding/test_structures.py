"""Random group-of-picture structures: whatever the encoder did, frames are those of sequential decoding."""

import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from featcache.data.decoding import open_video
from featcache.testing.videos import sequential_frames, write_video


@st.composite
def structures(draw):
    """Keyword arguments of an encoding."""
    codec = draw(st.sampled_from(["libx264", "libx265", "mpeg4", "mpeg2video", "libvpx-vp9", "libsvtav1"]))
    suffixes = {
        "libvpx-vp9": [".webm", ".mkv", ".mp4"],
        "libsvtav1": [".webm", ".mkv", ".mp4", ".ivf", ".obu"],
        "mpeg2video": [".mpg", ".mkv"],
        "mpeg4": [".avi", ".mp4", ".mkv"],
    }
    suffix = draw(st.sampled_from(suffixes.get(codec, [".mp4", ".mkv", ".mov", ".ts", ".avi"])))
    gop, b_frames, open_gop = draw(st.integers(1, 15)), draw(st.integers(0, 3)), draw(st.booleans())
    options = {"g": str(gop), "bf": str(b_frames)}
    if codec == "libx264":
        options |= {"x264-params": f"open-gop={int(open_gop)}:b-pyramid={draw(st.sampled_from(['none', 'normal']))}"}
    elif codec == "libx265":
        options = {
            "preset": "ultrafast",
            "x265-params": f"keyint={gop}:bframes={b_frames}:open-gop={int(open_gop)}:log-level=none:pools=none",
        }
    elif codec == "libvpx-vp9":
        options = {"g": str(gop), "deadline": "realtime", "cpu-used": "8"}
    elif codec == "libsvtav1":
        levels, refresh = draw(st.integers(2, 4)), draw(st.sampled_from([1, 2]))
        options = {"g": str(gop), "preset": "10"}
        options |= {"svtav1-params": f"hierarchical-levels={levels}:irefresh-type={refresh}"}
    gaps = [1]
    if suffix in {".mp4", ".mkv", ".mov", ".webm"}:
        gaps = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    start = draw(st.sampled_from([0, 0, 37]))
    container = {}
    if suffix in {".mp4", ".mov"}:
        container = draw(st.sampled_from([{}, {"movflags": "faststart"}, {"movflags": "frag_keyframe+empty_moov"}]))
    return {
        "suffix": suffix,
        "num_frames": draw(st.integers(3, 40)),
        "codec": codec,
        "options": options,
        "gaps": gaps,
        "start": start,
        "container_options": container,
    }


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(structure=structures(), data=st.data())
def test_any_structure_is_exact(structure, data):
    structure = dict(structure)
    gaps, start, suffix = structure.pop("gaps"), structure.pop("start"), structure.pop("suffix")
    starts = start + np.concatenate([[0], np.cumsum(np.resize(gaps, 64))])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"video{suffix}"
        try:
            write_video(path, pts=lambda index: int(starts[index]), time_base=Fraction(1, 25), fps=25, **structure)
        except (av.error.FFmpegError, ValueError):
            reject()  # a muxer that will not take this codec
        expected = sequential_frames(path)
        with open_video(path) as reader:
            assert reader.timeline.num_frames == len(expected)
            assert (np.diff(reader.timeline.pts_seconds) > 0).all()
            for _ in range(3):
                indices = data.draw(st.sets(st.integers(0, len(expected) - 1), min_size=1, max_size=8))
                for index, frame in reader.read(sorted(indices)):
                    np.testing.assert_array_equal(frame, expected[index])
