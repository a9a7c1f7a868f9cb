"""What is read off clips without learning what they show, and what it might tell.

A cue is a few numbers of a clip. A question is a cue of all draws beside what it should not tell: an answer of the
task, or which clips belong together.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional

from featcache.methods.pretext.task import PretextTask
from featcache.seeding import rng_for

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_FAINT = 0.1
_SIDE = 8


def changes(clip: Tensor) -> Floats:
    """Logarithm of the mean absolute difference of each two consecutive frames, float64 [T - 1]."""
    frames = clip.float()
    found: Floats = (frames[1:] - frames[:-1]).abs().mean(dim=(1, 2, 3)).double().numpy()
    return np.log(found + _FAINT)


def sorted_changes(clip: Tensor) -> Floats:
    """The same in ascending order, so that it does not matter when a frame changes, float64 [T - 1]."""
    return np.sort(changes(clip))


def picture(clip: Tensor) -> Floats:
    """The first frame in 8 x 8 pixels, float64 [192] in [0, 1]."""
    small = functional.adaptive_avg_pool2d(clip[:1].float() / 255, _SIDE)
    found: Floats = small.double().numpy().ravel()
    return found


DIFFERENCES, SORTED, FIRST_FRAME, MEAN_FRAME = "frame differences", "sorted differences", "first frame", "mean frame"
CUES: Mapping[str, Callable[[Tensor], Floats]] = {
    DIFFERENCES: changes,
    SORTED: sorted_changes,
    FIRST_FRAME: picture,
}
"""Cues of a clip, uint8 [T, 3, S, S], by name."""


def stillness(clip: Tensor) -> float:
    """Share of the variance of a clip's pixels that its mean frame explains, 1 if nothing changes."""
    frames = clip.float()
    whole, rest = (frames.var(dim=dims, correction=0).mean() for dims in ((0, 2, 3), (0,)))
    return float(1 - rest / whole) if whole > 0 else 1.0


class Drawn(NamedTuple):
    """All draws of an audit.

    Attributes:
        videos: int64 [N], the video of each draw.
        targets: int64 [N] by name, those targets that are a whole number.
        places: float64 [N], middle of the clips, as a share of the video.
    """

    videos: Integers
    targets: Mapping[str, Integers]
    places: Floats


class Question(NamedTuple):
    """What a cue might tell.

    Attributes:
        name: What is asked.
        cue: What it is told by.
        features: float64 [N, D], the cue.
        answers: int64 [N], from 0.
        num_answers: Number of answers, each of which is right somewhere.
    """

    name: str
    cue: str
    features: Floats
    answers: Integers
    num_answers: int


SAME_VIDEO, RIGHT_KEY, PIXELS = "same video", "right key", "pixels"


def asked_of_targets(drawn: Drawn, cue: str, features: Floats) -> list[Question]:
    """Does a cue tell the targets?

    Args:
        drawn: The draws.
        cue: Name of the cue.
        features: float64 [N, D].
    """
    found = []
    for name, targets in drawn.targets.items():
        kinds, answers = np.unique(targets, return_inverse=True)
        if len(kinds) > 1:
            found.append(Question(name, cue, features, answers.reshape(-1), len(kinds)))
    return found


def asked_of_clips(task: PretextTask, drawn: Drawn, cue: str, values: Floats, *, seed: int) -> list[Question]:
    """What a cue of the clips that a network reads might tell.

    Of tasks that compare clips of different videos: are two clips of one video? Of tasks with a key network and several
    keys or negatives: which of two is the first clip's own? By convention the second clip is, and the third is not.

    Args:
        task: The task.
        drawn: The draws.
        cue: Name of the cue.
        values: float64 [N, clips, D].
        seed: Seed of the pairs.
    """
    num, num_clips, _ = values.shape
    rng = rng_for(seed, "leaks", "pairs")
    coin = rng.permutation(np.arange(num) % 2)
    found = asked_of_targets(drawn, cue, values.reshape(num, -1))
    if num_clips > 1 and (task.chance is None or task.queues):
        other = _of_other_videos(drawn.videos, rng)
        partners = np.where(coin[:, None] == 1, values[:, 1], values[other, 1])
        found.append(Question(SAME_VIDEO, cue, np.abs(values[:, 0] - partners), coin, 2))
    if num_clips > 2 and task.follows is not None:
        near, far = (np.abs(values[:, 0] - values[:, clip]) for clip in (1, 2))
        found.append(Question(RIGHT_KEY, cue, np.where(coin[:, None] == 1, near - far, far - near), coin, 2))
    return found


def _of_other_videos(videos: Integers, rng: np.random.Generator) -> Integers:
    """A draw of another video for each draw, int64 [N]."""
    others: Sequence[int] = [int(rng.choice(np.flatnonzero(videos != video))) for video in videos]
    return np.array(others)


def one_hot(values: Integers) -> Floats:
    """float64 [N, number of different values]."""
    kinds, place = np.unique(values, return_inverse=True)
    return np.eye(len(kinds))[place.reshape(-1)]
