"""The suite of pretext tasks on featcache's own, and on wrong ones."""

import dataclasses

import numpy as np
import pytest
import torch

from featcache.loaders.views import read_views
from featcache.methods.pretext.objective import DrawnViews
from featcache.methods.pretext.rotnet import RotNet
from featcache.methods.pretext.rspnet import Rspnet
from featcache.methods.pretext.task import TASKS, Draw, Follow
from featcache.methods.pretext.vcop import Vcop
from featcache.plugins import BUILT_IN
from featcache.testing import pretext as suite
from featcache.training.objective import class_loss


class TestBuiltIn(suite.PretextTests):
    names = tuple(place.name for place in TASKS.places() if place.origin == BUILT_IN)


@pytest.mark.parametrize("complexity", ["c1", "c2"])
def test_fewer_angles_conform(complexity):
    for check in (suite.targets_do_not_tell_the_length, suite.answers_can_be_read_off_the_pixels):
        check(RotNet(complexity=complexity))
    suite.the_loss_begins_with_guessing(RotNet(complexity=complexity))


@pytest.mark.parametrize("complexity", ["c2", "c3"])
def test_more_clips_conform(complexity):
    suite.answers_can_be_read_off_the_pixels(Vcop(complexity=complexity))
    suite.the_loss_begins_with_guessing(Vcop(complexity=complexity))


@pytest.mark.slow
@pytest.mark.parametrize("name", TestBuiltIn.names)
@pytest.mark.parametrize("complexity", ["c1", "c2", "c3"])
def test_labels_are_uniform_over_many_draws(name, complexity):
    kind = TASKS.load(name)
    if "complexity" in kind.model_fields:
        task = kind(complexity=complexity)
    elif complexity == "c1":
        task = kind()
    else:
        pytest.skip("the task has one complexity")
    suite.targets_do_not_tell_the_length(task, num_draws=10_000)


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


class Restless(RotNet):
    """Every frame is coloured on its own."""

    def draw(self, footage, shape, rng):
        (view,), targets = super().draw(footage, shape, rng)
        looks = tuple(look._replace(flip=place % 2 == 0) for place, look in enumerate(view.looks))
        return Draw(views=(dataclasses.replace(view, looks=looks),), targets=targets)


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


class Surer(RotNet):
    """A guess is worse than it says."""

    @property
    def chance(self):
        return 0.9


class KeyTrained(RotNet):
    """The key network is trained too."""

    @property
    def follows(self):
        return Follow(momentum=0.9)

    def loss(self, module, clips, targets):
        module.follower.requires_grad_(True)
        return class_loss(
            module.heads["turns"](module.features(clips[0]) + module.follower.features(clips[0])), targets["turns"]
        )


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (Leaky, suite.targets_do_not_tell_the_length),
        (Permuted, suite.answers_can_be_read_off_the_pixels),
        (Restless, suite.a_clip_has_one_look),
        (Drifting, suite.draws_are_pure),
        (Late, suite.the_shortest_video_is_enough),
        (Idle, suite.every_parameter_takes_part),
        (KeyTrained, suite.every_parameter_takes_part),
        (Surer, suite.the_loss_begins_with_guessing),
    ],
    ids=lambda value: value.__name__,
)
def test_the_suite_catches_wrong_tasks(wrong, check):
    with pytest.raises(AssertionError, match="rotnet"):
        check(wrong())


class ViewByView(DrawnViews):
    """Each clip is decoded by itself."""

    def pixels(self, file, epoch):
        with file.open() as reader:
            return tuple(read_views(reader, [view])[0].numpy() for view in self.draw(file.video, epoch=epoch).views)


class Whole(DrawnViews):
    """All frames of a video are decoded."""

    def pixels(self, file, epoch):
        with file.open() as reader:
            list(reader.read(range(file.video.num_frames)))


@pytest.mark.parametrize("source", [ViewByView, Whole])
def test_the_suite_catches_frames_that_are_decoded_again_or_for_nothing(source):
    with pytest.raises(AssertionError, match=r"rspnet: .* frames are decoded where its clips have"):
        suite.all_clips_are_decoded_in_one_pass(Rspnet(), source=source)
