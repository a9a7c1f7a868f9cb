"""Samples of 0 bytes: a recorder's dropped frame keeps its place in time, and is no picture that is lacking."""

import struct
from pathlib import Path

import numpy as np
import pytest

from featcache.data.decoding import open_video
from featcache.errors import VideoError
from featcache.testing.videos import FPS, NUM_FRAMES, sequential_frames, write_video

GOP = 12


def sample_sizes(data: bytes) -> tuple[int, list[int]]:
    """Where the table of sample sizes of an MP4 begins, and the sizes."""
    at = data.index(b"stsz") + 16
    (number,) = struct.unpack_from(">I", data, at - 4)
    return at, list(struct.unpack_from(f">{number}I", data, at))


def without_bytes(path: Path, samples: set[int]) -> None:
    """Take the bytes of samples of an MP4 whose track is one chunk; their entries stay."""
    data = path.read_bytes()
    table, sizes = sample_sizes(data)
    (chunk,) = struct.unpack_from(">I", data, data.index(b"stco") + 12)
    bounds = np.cumsum([chunk, *sizes])
    left = b"".join(data[bounds[at] : bounds[at + 1]] for at in range(len(sizes)) if at not in samples)
    end = int(bounds[-1])
    changed = bytearray(data[:chunk] + left.ljust(end - chunk, b"\0") + data[end:])
    for at in samples:
        struct.pack_into(">I", changed, table + 4 * at, 0)
    path.write_bytes(changed)


@pytest.mark.parametrize("faststart", [False, True])
@pytest.mark.parametrize("empty", [{47}, {11}, {5, 6, 23, 30, 47}], ids=["last", "middle", "several"])
def test_a_sample_without_bytes_is_no_lacking_picture(tmp_path, empty, faststart):
    path = tmp_path / "video.mp4"
    # Every picture a key frame: what is left decodes to the very pictures that were encoded.
    write_video(
        path,
        options={"preset": "veryfast", "bf": "0", "g": "1"},
        container_options={"movflags": "faststart"} if faststart else {},
    )
    whole = sequential_frames(path)
    without_bytes(path, empty)
    left = [index for index in range(NUM_FRAMES) if index not in empty]
    with open_video(path) as reader:
        assert reader.timeline.num_frames == len(left)
        np.testing.assert_allclose(reader.timeline.pts_seconds, np.array(left) / FPS)
        for at, frame in reader.read(range(len(left))):
            np.testing.assert_array_equal(frame, whole[left[at]])


@pytest.mark.parametrize("b_frames", [0, 2])
def test_the_last_picture_of_each_group_may_be_empty(tmp_path, b_frames):
    path = tmp_path / "video.mp4"
    options = {"preset": "veryfast", "bf": str(b_frames), "b_strategy": "0", "g": str(GOP), "sc_threshold": "0"}
    write_video(path, options=options)
    without_bytes(path, {GOP - 1, 2 * GOP - 1, 4 * GOP - 1})
    expected = sequential_frames(path)
    with open_video(path) as reader:
        assert reader.timeline.num_frames == len(expected) == NUM_FRAMES - 3
        for index, frame in reader.read(range(len(expected))):
            np.testing.assert_array_equal(frame, expected[index])


def test_empty_chunks_of_an_avi_are_no_pictures(tmp_path):
    """AVI writes an empty chunk for a frame that is shown again; a remux to MP4 makes an empty sample of it."""
    path = tmp_path / "video.avi"
    write_video(path, codec="mjpeg", pixel_format="yuvj420p", options={"q": "3"}, pts=lambda index: index * 3)
    assert path.read_bytes().count(b"00dc\0\0\0\0") >= 2 * (NUM_FRAMES - 1)
    expected = sequential_frames(path)
    with open_video(path) as reader:
        assert reader.timeline.num_frames == len(expected) == NUM_FRAMES
        np.testing.assert_allclose(np.diff(reader.timeline.pts_seconds), 3 / FPS)


def test_a_file_that_breaks_off_is_still_told_beside_empty_samples(tmp_path):
    path = tmp_path / "video.mp4"
    write_video(path, options={"preset": "veryfast", "g": "1"}, container_options={"movflags": "faststart"})
    without_bytes(path, {1, 2})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match=rf"breaks off after \d+ of {NUM_FRAMES - 2} pictures"):
        open_video(path)


def test_nothing_but_empty_samples_is_no_video(tmp_path):
    path = tmp_path / "video.mp4"
    write_video(path, options={"preset": "veryfast", "g": "1"})
    without_bytes(path, set(range(NUM_FRAMES)))
    with pytest.raises(VideoError, match="no frame of it decodes"):
        open_video(path)
