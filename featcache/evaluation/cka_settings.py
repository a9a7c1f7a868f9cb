"""Settings of ``featcache evaluate cka``, without torch."""

from typing import Literal

from pydantic import Field

from featcache.config import Aside, Settings
from featcache.data.selection import VideosSettings
from featcache.errors import ConfigError


class ComparedNetwork(Settings):
    """One of the networks."""

    backbone: str
    """Registry name, e.g. ``r21d``."""
    weights: str = "default"
    """Weights: ``default``, ``random`` or the path of a file."""


class CkaSettings(VideosSettings):
    """Settings of ``featcache evaluate cka``: how alike the layers of one network are, or those of two."""

    command: Literal["evaluate-cka"] = "evaluate-cka"
    """The command this file repeats."""
    networks: Aside[tuple[ComparedNetwork, ...]] = Field(min_length=1, max_length=2)
    """One network, whose layers are compared with each other, or two."""
    untrained: bool = True
    """Draw the same maps of networks with random weights beside them."""
    layers: Literal["all", "conv"] = "all"
    """Which layers count; ``all``: convolutions, linear layers, normalisations and activations; ``conv``: the first
    two."""
    split: str | None = None
    """Split of the videos; null: all but ``train``, and all videos where there are no splits."""
    num_clips: int = Field(default=256, ge=4)
    """Number of videos, one clip in the middle of each; fewer if there are not as many."""
    batch_size: int = Field(default=64, ge=4)
    """Most clips of a minibatch, all of which are compared with each other."""
    num_frames: int | None = Field(default=None, ge=1)
    """Number of frames per clip; null: that of its run, or the backbone's."""
    frame_stride: int | None = Field(default=None, ge=1)
    """Distance between the frames of a clip; null: the backbone's."""
    input_size: int | None = Field(default=None, ge=1)
    """Input side in pixels; null: that of its run, or the backbone's."""
    threshold: float = Field(default=0.9, gt=0, lt=1)
    """CKA above which two layers count as alike."""
    seed: int = 0
    """Seed of the choice of the videos."""
    memory: Aside[int] = Field(default=1_000_000_000, ge=1)
    """Bytes that a forward pass may take beside the networks and the clips; with more memory clips are passed fewer
    times, and the maps are the same."""
    workers: Aside[int | None] = Field(default=None, ge=0)
    """Number of decoding processes; 0: this process; null: one per core."""
    device: Aside[str] = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    out: Aside[str | None] = None
    """Folder of the result; null: ``runs/<source>/cka-<hash>``."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        super().model_post_init(context)
        joined = [each.backbone for each in self.networks if "+" in each.backbone]
        if joined:
            raise ConfigError(f"backbone {joined[0]!r} joins several, whose layers have no common order; give one")
