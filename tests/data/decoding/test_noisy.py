"""A reader around a reader: frames come out noisy, whatever is read beside them."""

import numpy as np
import pytest

from featcache.data.decoding import VideoReader, open_video
from featcache.data.decoding.clips import CropSize, decode_rows
from featcache.data.decoding.noisy import NoisyReader
from featcache.data.noise import add_noise
from featcache.data.sampling import sample_rows
from featcache.data.types import VideoNoise
from featcache.errors import ConfigError, VideoError
from featcache.noise import KINDS, NoiseRecipe
from featcache.recipes import SamplingRecipe
from featcache.testing.videos import sequential_frames, write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("noisy") / "v.mp4"
    write_video(path, num_frames=20)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_noisy_whatever_is_read_beside_them(video, kind):
    noise = VideoNoise(NoiseRecipe(kind=kind, severity=4), "v")
    frames = sequential_frames(video)
    with NoisyReader(open_video(video), noise) as reader:
        assert isinstance(reader, VideoReader)
        assert (reader.timeline.num_frames, reader.codec) == (20, "h264")
        everything = {index: frame.copy() for index, frame in reader.read(range(20))}
        for indices in ([7], [3, 7, 19]):
            for index, frame in reader.read(indices):
                assert np.array_equal(frame, everything[index])
    for index, frame in everything.items():
        assert np.array_equal(frame, add_noise(frames[index], noise, frame=index))
        assert not np.array_equal(frame, frames[index])


def test_rows_of_a_noisy_recipe_are_rows_of_a_noisy_reader(video):
    clean = SamplingRecipe(num_clips=3, num_frames=4, spatial="views", num_crops=3, crop_fraction=0.8)
    recipe = NoiseRecipe(kind="speckle", severity=2, seed=5)
    noisy = SamplingRecipe(num_clips=3, num_frames=4, spatial="views", num_crops=3, crop_fraction=0.8, noise=recipe)
    size = CropSize(size=32, interpolation="bicubic")
    found = []
    for wrapped, sampling in ((True, clean), (False, noisy)):
        with open_video(video) as plain:
            reader = NoisyReader(plain, VideoNoise(recipe, "v")) if wrapped else plain
            specs = sample_rows(sampling, reader.timeline, "v")
            batches = list(decode_rows(reader, specs, [size], max_batch_bytes=10_000))
            found.append(
                {row: pixels for each in batches for row, pixels in zip(each.rows, each.pixels[size], strict=True)}
            )
    assert found[0].keys() == found[1].keys() == set(range(9))
    assert all(np.array_equal(found[0][row], found[1][row]) for row in found[0])


def test_a_reader_has_no_crops_and_passes_errors_on(video):
    with open_video(video) as reader:
        with pytest.raises(ConfigError, match=r"noise\.place is 'crop'.*set it to 'frame'"):
            NoisyReader(reader, VideoNoise(NoiseRecipe(kind="shot", severity=1, place="crop"), "v"))
        noisy = NoisyReader(reader, VideoNoise(NoiseRecipe(kind="shot", severity=1), "v"))
        with pytest.raises(VideoError, match="only 20 frames decode"):
            list(noisy.read([20]))
