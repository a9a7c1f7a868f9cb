"""A frame bank of int8 rows, pooled at read."""

import numpy as np
import torch

from featcache.backbones.outputs import pool_channels, pool_space
from featcache.loaders.bank import open_bank
from featcache.loaders.settings import BankSettings
from featcache.recipes import SamplingRecipe
from featcache.store.reader import open_store
from featcache.testing import stores


def test_int8_rows_are_pooled_after_their_scales(tmp_path):
    bank = SamplingRecipe(layout="frames", temporal="bank", num_clips=1, num_frames=1, frame_stride=1)
    plan = stores.StorePlan(records={"map": stores.make_record((4, 4, 6), "int8")}, num_videos=3, rows_per_video=(5,))
    stores.write_store(tmp_path / "s", plan, sampling=bank)
    source = open_bank(BankSettings(store=str(tmp_path / "s"), grid=2, channels=3))
    assert source.shape == (2, 2, 3)
    clips = source.clips(np.array([1]), np.array([[0, 4]]), [0])
    with open_store(tmp_path / "s").feature("map") as features:
        rows = torch.from_numpy(features.gather([5, 9], dequantised=True))
    assert torch.equal(clips[0], pool_space(pool_channels(rows, 3), 2))
