"""The suite of pretext tasks on featcache's own, and on wrong ones."""

import numpy as np
import pytest
import torch

from featcache.methods.pretext.rotnet import RotNet
from featcache.methods.pretext.task import TASKS, Draw
from featcache.plugins import BUILT_IN
from featcache.testing import pretext as suite


class TestBuiltIn(suite.PretextTests):
    names = tuple(place.name for place in TASKS.places() if place.origin == BUILT_IN)


class Leaky(RotNet):
    """Long videos are rarely upright."""

    def draw(self, footage, shape, rng):
        drawn = super().draw(footage, shape, rng)
        return drawn if footage.num_frames < 100 or drawn.targets["turns"] else super().draw(footage, shape, rng)


class Permuted(RotNet):
    """The label is not what is seen."""

    def draw(self, footage, shape, rng):
        drawn = super().draw(footage, shape, rng)
        return Draw(views=drawn.views, targets={"turns": (drawn.targets["turns"] + 1) % 4})


class Drifting(RotNet):
    """Draws depend on more than the generator."""

    def draw(self, footage, shape, rng):
        return super().draw(footage, shape, np.random.default_rng())


class Late(RotNet):
    """A clip needs one frame more than it says."""

    def min_frames(self, shape):
        return super().min_frames(shape) - 1

    def draw(self, footage, shape, rng):
        return super().draw(footage._replace(num_frames=footage.num_frames + 1), shape, rng)


class Idle(RotNet):
    """A head that nothing trains."""

    def heads(self, width):
        return {**super().heads(width), "idle": torch.nn.Linear(width, 1)}


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (Leaky, suite.targets_do_not_tell_the_length),
        (Permuted, suite.answers_can_be_read_off_the_pixels),
        (Drifting, suite.draws_are_pure),
        (Late, suite.the_shortest_video_is_enough),
        (Idle, suite.every_parameter_takes_part),
    ],
    ids=lambda value: value.__name__,
)
def test_the_suite_catches_wrong_tasks(wrong, check):
    with pytest.raises(AssertionError, match="rotnet"):
        check(wrong())
