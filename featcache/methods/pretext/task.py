"""The interface of a pretext task: which clips it draws from a video, their targets, and its loss.

A task is one class of settings in one file; its fields can be set in YAML and with ``--set task.…``. It is found by
name, and packages add tasks by entry points of the group ``featcache.tasks``; see ``docs/adding-a-method.md``.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from featcache.config import Settings
from featcache.plugins import Place, Registry

if TYPE_CHECKING:  # settings of tasks are read without torch
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

    from featcache.loaders.views import ClipShape, View
    from featcache.methods.pretext.module import PretextModule
    from featcache.training.objective import Loss


class Footage(NamedTuple):
    """What is known about a video before it is opened.

    Attributes:
        id: Id of the video.
        num_frames: Number of frames.
        height: Frame height in pixels.
        width: Frame width in pixels.
        duration_seconds: Time from the start of the first frame to the end of the last, in seconds.
    """

    id: str
    num_frames: int
    height: int
    width: int
    duration_seconds: float


class Draw(NamedTuple):
    """The clips of a video in one epoch, and their targets.

    Attributes:
        views: Clips; their number and shapes are the same for all videos.
        targets: Targets to predict, by name: a number, or an array that has the same shape for all videos.
    """

    views: "tuple[View, ...]"
    targets: "Mapping[str, int | float | npt.NDArray[Any]]"


class Seen(NamedTuple):
    """What a test reads off the pixels of a view, from videos whose frames show their number and which side is up.

    Attributes:
        frames: Number of each frame.
        turns: Number of quarter turns counter-clockwise.
    """

    frames: tuple[int, ...]
    turns: int


class Follow(NamedTuple):
    """A key network that follows the trained one, with heads of its own and without gradients (MoCo).

    Attributes:
        momentum: Share of each of its weights that a step keeps; the rest comes from the trained network.
    """

    momentum: float


class PretextTask(Settings):
    """A pretext task; a subclass is one task, and its fields are the task's settings, each with a default.

    Every draw is a pure function of the footage and the generator, whose state depends only on the run's seed, the
    video and the epoch, so that runs can be resumed exactly.
    """

    reads: ClassVar[Literal["vector", "map"]] = "vector"
    """What the heads read: the network's vectors, or its last map."""

    name: str
    """Name of the task; see ``featcache.methods.pretext.task.TASKS``."""

    @property
    def follows(self) -> Follow | None:
        """How a key network follows the trained one; none by default."""
        return None

    @property
    def queues(self) -> Mapping[str, tuple[int, int]]:
        """Queues of earlier keys by name: their number, and the number of their channels; none by default."""
        return {}

    @property
    def chance(self) -> float | None:
        """Accuracy of a guess, where the task has answers of which one can be guessed."""
        return None

    @abstractmethod
    def min_frames(self, shape: "ClipShape") -> int:
        """Number of frames that a video needs; shorter videos are left out and counted."""

    @abstractmethod
    def draw(self, footage: Footage, shape: "ClipShape", rng: "np.random.Generator") -> Draw:
        """Draw the clips of a video and their targets.

        Args:
            footage: The video, which has at least :meth:`min_frames` frames.
            shape: Shape of the network's input clips.
            rng: Source of every draw.
        """

    @abstractmethod
    def heads(self, width: int) -> "Mapping[str, nn.Module]":
        """Heads, freshly initialised, on what the task :attr:`reads`, which has ``width`` channels."""

    @abstractmethod
    def loss(self, module: "PretextModule", clips: "tuple[Tensor, ...]", targets: "Mapping[str, Tensor]") -> "Loss":
        """Loss and metrics of a batch, or of this process's equal share of it.

        The loss of a batch is the mean over processes. A loss that compares the clips of a whole batch gathers the
        others' by ``module.world``; a buffer, e.g. a queue, must get the same values in all processes.

        Args:
            module: Backbone and heads, on their device.
            clips: One tensor per view, uint8 [B, T, 3, S, S].
            targets: Targets by name, [B, ...].
        """

    def after_step(self, module: "PretextModule", progress: float) -> None:
        """Called after each step with the fraction of the run that is done; a key network has then moved already."""

    def label_of(self, seen: tuple[Seen, ...]) -> Mapping[str, int]:
        """The targets as read off the pixels, for the conformance suite; empty if pixels do not show them."""
        return {}


TASKS: Registry[type[PretextTask]] = Registry(
    kind="pretext task",
    group="featcache.tasks",
    entry=type,
    built_in=tuple(
        Place(name=name, target=f"featcache.methods.pretext.{name}:{attribute}", summary=summary)
        for name, attribute, summary in (
            ("rotnet", "RotNet", "by how many quarter turns was the clip rotated?"),
            ("vcop", "Vcop", "in which order were the clips?"),
            ("prp", "Prp", "at which rate was the clip sampled, and what lies between its frames?"),
            ("cvrl", "Cvrl", "which two clips are of one video?"),
            ("tdl", "Tdl", "which clip shows the same moment of a video?"),
            ("rspnet", "Rspnet", "which clip is as fast as this one, and which is of the same video?"),
            ("videomae", "VideoMae", "what is under the masked tubes?"),
        )
    ),
)
