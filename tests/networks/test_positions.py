"""Interpolated position embeddings against a plain reference."""

import itertools

import numpy as np
import pytest
import torch

from featcache.networks.positions import resize_positions


def table_of(grid, channels=3):
    size = (grid[0] * grid[1] * grid[2], channels)
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def along(values, num):
    """One axis, the first, by hand: centres of cells are aligned, the ends repeat."""
    old = len(values)
    places = np.clip((np.arange(num) + 0.5) * old / num - 0.5, 0, old - 1)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, old - 1)
    weight = (places - low).reshape(-1, *[1] * (values.ndim - 1))
    return values[low] * (1 - weight) + values[high] * weight


def reference(table, native, grid):
    volume = table.double().numpy().reshape(*native, -1)
    for axis, num in enumerate(grid):
        volume = np.moveaxis(along(np.moveaxis(volume, axis, 0), num), 0, axis)
    return volume.reshape(-1, volume.shape[-1])


@pytest.mark.parametrize(
    ("native", "grid"), [*itertools.product([(8, 14, 14), (2, 3, 4)], [(8, 16, 16), (1, 2, 3), (4, 14, 14), (3, 7, 5)])]
)
def test_it_is_trilinear(native, grid):
    table = table_of(native)
    resized = resize_positions(table, native=native, grid=grid)
    np.testing.assert_allclose(resized.numpy(), reference(table, native, grid), atol=1e-5)


def test_the_native_grid_is_untouched():
    table = table_of((8, 14, 14))
    assert resize_positions(table, native=(8, 14, 14), grid=(8, 14, 14)) is table
