"""A run that an earlier build began is taken up: what makes a run the same does not change under it.

``tests/archives/scale-run`` was stopped after its second step of six.
"""

import shutil
from pathlib import Path

import pytest

from featcache.config import parse
from featcache.errors import RecipeMismatchError
from featcache.methods.scale.run import pretrain_scale
from featcache.methods.scale.settings import ScaleSettings
from featcache.training.checkpoint import read_checkpoint
from featcache.training.logs import read_log

from .helpers import located_sets

ARCHIVE = Path(__file__).parents[2] / "archives" / "scale-run"


def settings_for(folder, **changes):
    training = {"epochs": 3, "batch_size": 4, "tensorboard": False, "threads": 1, "device": "cpu"}
    data = {
        "sets": {"store": "none"},
        "clips_per_set": 2,
        "predictor": {"width": 8, "depth": 1, "heads": 1, "position_hidden": 4},
        "heads": {"width": 4, "target_hidden": 8, "hidden": 8},
        "training": training,
        "out": str(folder),
    }
    return parse(ScaleSettings, {**data, **changes})


def test_a_run_of_an_earlier_build_is_taken_up(tmp_path):
    folder = shutil.copytree(ARCHIVE, tmp_path / "run")
    before = read_log(folder / "seed-0")
    assert read_checkpoint(folder / "seed-0").step == 2
    result = pretrain_scale(settings_for(folder), sets=located_sets(8, width=4))
    assert read_checkpoint(folder / "seed-0").step == result.seeds[0]["step"] == 6
    assert read_log(folder / "seed-0")[: len(before)] == before
    with pytest.raises(RecipeMismatchError, match="a run with clips_per_set 2, which is 3 here"):
        pretrain_scale(settings_for(folder, clips_per_set=3), sets=located_sets(8, width=4))
