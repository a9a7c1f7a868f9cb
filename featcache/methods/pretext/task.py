"""What a pretext task is: which clips it draws out of a video, what it asks of them, and how answers are judged.

A task is one class of settings in one file: its fields are what YAML and ``--set task.…`` can say. It is found by name,
and packages add their own by entry points of the group ``featcache.tasks``; see ``docs/adding-a-method.md``.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

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
    """What is known of a video before it is opened.

    Attributes:
        id: Its id.
        num_frames: Number of frames.
        height: Frame height in pixels.
        width: Frame width in pixels.
        duration_seconds: From the first frame to the end of the last.
    """

    id: str
    num_frames: int
    height: int
    width: int
    duration_seconds: float


class Draw(NamedTuple):
    """What a video shows in one epoch.

    Attributes:
        views: Clips; their number and shapes are the same for all videos.
        targets: What is to be found out, by name: a number, or an array of one shape for all videos.
    """

    views: "tuple[View, ...]"
    targets: "Mapping[str, int | float | npt.NDArray[Any]]"


class Seen(NamedTuple):
    """What can be read off the pixels of a view whose frames tell their number and which way is up.

    Attributes:
        frames: Number of each frame.
        turns: Quarter turns against the clock.
    """

    frames: tuple[int, ...]
    turns: int


class PretextTask(Settings):
    """A pretext task; subclasses are its settings, each with a default.

    Every draw is a pure function of the footage and the generator, whose state depends on the run's seed, the video and
    the epoch alone: so runs can be resumed exactly.
    """

    name: str
    """Name of the task; see ``featcache.methods.pretext.task.TASKS``."""

    @abstractmethod
    def min_frames(self, shape: "ClipShape") -> int:
        """Frames that a video must have; shorter ones are left out and counted."""

    @abstractmethod
    def draw(self, footage: Footage, shape: "ClipShape", rng: "np.random.Generator") -> Draw:
        """Draw the clips of a video and what is to be found out about them.

        Args:
            footage: The video, which has :meth:`min_frames` or more.
            shape: A clip as the network takes it.
            rng: Source of every draw.
        """

    @abstractmethod
    def heads(self, width: int) -> "Mapping[str, nn.Module]":
        """Heads on the network's vectors of ``width`` channels, freshly initialised."""

    @abstractmethod
    def loss(self, module: "PretextModule", clips: "tuple[Tensor, ...]", targets: "Mapping[str, Tensor]") -> "Loss":
        """Judge what the module makes of a batch.

        Args:
            module: Backbone and heads, on their device.
            clips: One tensor per view, uint8 [B, T, 3, S, S].
            targets: By name, [B, ...].
        """

    def after_step(self, module: "PretextModule", progress: float) -> None:
        """Called after each step with the share of the run that is done, e.g. to move a network that follows."""

    def label_of(self, seen: tuple[Seen, ...]) -> Mapping[str, int]:
        """The targets as they can be read off the pixels, for the suite; empty where they cannot."""
        return {}


TASKS: Registry[type[PretextTask]] = Registry(
    kind="pretext task",
    group="featcache.tasks",
    entry=type,
    built_in=(
        Place(
            name="rotnet",
            target="featcache.methods.pretext.rotnet:RotNet",
            summary="by how many quarter turns was the clip rotated?",
        ),
    ),
)
