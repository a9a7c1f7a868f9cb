import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from featcache.data.transforms import crop_resize, enlarged, normalise
from featcache.data.types import Box


def image(height: int = 40, width: int = 60) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("flip", [False, True])
def test_crop_then_resize_then_flip(interpolation, flip):
    box = Box(y0=3, x0=10, y1=33, x1=57)
    pixels = crop_resize(image(), box, size=16, interpolation=interpolation, flip=flip)
    expected = functional.resize(
        image()[:, 3:33, 10:57].contiguous(), [16, 16], interpolation=InterpolationMode(interpolation), antialias=True
    )
    if flip:
        expected = functional.horizontal_flip(expected)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_memory_layout_does_not_matter(interpolation):
    box = Box(y0=1, x0=2, y1=39, x1=40)
    rows_first = image().permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert not rows_first.is_contiguous()
    assert torch.equal(
        crop_resize(rows_first, box, size=24, interpolation=interpolation),
        crop_resize(image(), box, size=24, interpolation=interpolation),
    )


def test_same_size_changes_nothing():
    assert torch.equal(
        crop_resize(image(32, 32), Box(y0=0, x0=0, y1=32, x1=32), size=32, interpolation="bicubic"), image(32, 32)
    )


@pytest.mark.parametrize(
    "box", [Box(y0=0, x0=0, y1=41, x1=10), Box(y0=-1, x0=0, y1=4, x1=4), Box(y0=5, x0=5, y1=5, x1=9)]
)
def test_a_box_outside_the_image_is_refused(box):
    with pytest.raises(ValueError, match="does not fit an image of 60x40"):
        crop_resize(image(), box, size=8, interpolation="bilinear")


def test_normalise_is_scale_then_centre_then_divide_in_float32():
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    out = normalise(pixels, mean=mean, std=std)
    plain = pixels.numpy().astype(np.float32) / np.float32(255)
    plain = plain - np.array(mean, np.float32)[:, None, None]
    plain = plain / np.array(std, np.float32)[:, None, None]
    assert out.dtype == torch.float32
    assert out.shape == pixels.shape
    np.testing.assert_array_equal(out.numpy(), plain)
    assert pixels.dtype == torch.uint8, "the input is left alone"


def test_normalise_half_is_plus_minus_one():
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    out = normalise(pixels, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert out[:, 0, 0, 0].tolist() == [-1.0, 1.0]


def test_enlarged_is_bilinear_between_the_middles_of_pixels():
    ramp = torch.arange(4.0).expand(2, 3, 4, 4)
    larger = enlarged(ramp, 2)
    assert larger.shape == (2, 3, 8, 8)
    assert larger[1, 2, 5].tolist() == [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]
    assert enlarged(torch.zeros(2, 5, 3, 4, 6), 3).shape == (2, 5, 3, 12, 18)
    assert enlarged(ramp, None) is ramp
