"""Colours: the matrix and range that a stream states are those it is read by."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from featcache.data.decoding import open_video

YUV = (110, 90, 190)
UNSTATED = 2

# The definitions: luma weights of red and blue.
WEIGHTS = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114), "bt2020": (0.2627, 0.0593)}


def write_flat(path: Path, *, matrix: int, color_range: int, pixel_format: str = "yuv444p") -> None:
    """Eight frames of one colour, without loss."""
    planes = np.stack([np.full((64, 64), value, np.uint8) for value in YUV])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width = stream.height = 64
        stream.pix_fmt = pixel_format
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, color_range
        for index in range(8):
            frame = VideoFrame.from_ndarray(planes, format="yuv444p")
            frame.pts, frame.colorspace, frame.color_range = index, matrix, color_range
            if pixel_format != "yuv444p":
                frame = frame.reformat(format=pixel_format)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def by_definition(matrix: str, *, is_full: bool) -> list[float]:
    """R'G'B' of ``YUV`` by the matrix's luma weights, in 8 bits."""
    red, blue = WEIGHTS[matrix]
    y, u, v = YUV
    luma = float(y) if is_full else (y - 16) * 255 / 219
    chroma = 1 if is_full else 255 / 224
    b = luma + 2 * (1 - blue) * (u - 128) * chroma
    r = luma + 2 * (1 - red) * (v - 128) * chroma
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return [r, g, b]


@pytest.mark.parametrize(("pixel_format", "levels"), [("yuv444p", 1), ("yuv420p", 2)])
@pytest.mark.parametrize(
    ("matrix", "code", "color_range", "expected"),
    [
        ("bt709", Colorspace.ITU709, ColorRange.MPEG, (221, 85, 29)),
        ("bt709", Colorspace.ITU709, ColorRange.JPEG, (208, 88, 39)),
        ("bt601", 6, ColorRange.MPEG, (208, 74, 33)),
        ("bt601", 6, ColorRange.JPEG, (197, 79, 43)),
        ("bt2020", 9, ColorRange.MPEG, (214, 76, 28)),
        ("bt601", UNSTATED, ColorRange.MPEG, (208, 74, 33)),  # FFmpeg's rule for a stream that states nothing
    ],
)
def test_colours_are_those_of_the_stated_matrix_and_range(
    tmp_path, matrix, code, color_range, expected, pixel_format, levels
):
    path = tmp_path / "video.mp4"
    write_flat(path, matrix=int(code), color_range=int(color_range), pixel_format=pixel_format)
    np.testing.assert_allclose(by_definition(matrix, is_full=color_range == ColorRange.JPEG), expected, atol=1)
    with open_video(path) as reader:
        for _, frame in reader.read([0, 7]):
            assert (frame == frame[0, 0]).all()
            np.testing.assert_allclose(frame[0, 0].astype(int), expected, atol=levels)
