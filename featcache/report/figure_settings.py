"""Settings of ``featcache figure``, without torch."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from featcache.config import Settings
from featcache.errors import ConfigError
from featcache.loaders.settings import BankSettings

PICTURES = (".png", ".jpg", ".jpeg")


class ActivationFigureSettings(Settings):
    """Settings of ``featcache figure activation``."""

    command: Literal["figure-activation"] = "figure-activation"
    """The command this file repeats."""
    bank: BankSettings
    """The frame bank that holds the maps."""
    run: str
    """Folder of a run of ``train advise`` or ``train tmm``."""
    video: str
    """Id of the video in the store."""
    num_frames: int = Field(default=16, ge=1)
    """Number of frames to show, spread over the video; the module sees them as one clip."""
    seed: int = 0
    """Seed of the run whose modules are drawn."""
    size: int = Field(default=160, ge=16)
    """Side of a frame in the picture, in pixels."""
    videos: str | None = None
    """Folder of the videos; null: the folder from which they were extracted."""
    device: str = "auto"
    """Device on which the module runs: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    out: str
    """File of the picture to write; PNG or JPEG by its suffix."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        check_picture(self.out)
        if self.bank.online:
            raise ConfigError("the picture shows stored maps; leave bank.online out")


class PicturedNetwork(Settings):
    """One network of a figure."""

    backbone: str
    """Registry name, e.g. ``svt-b``, ``dinov2-b14``, ``timm/vit_base_patch16_224.dino``."""
    weights: str = "default"
    """Weights: ``default``, ``random`` or the path of a file."""


class AttentionFigureSettings(Settings):
    """Settings of ``featcache figure attention``."""

    command: Literal["figure-attention"] = "figure-attention"
    """The command this file repeats."""
    sources: tuple[str, ...] = Field(min_length=1)
    """Video files, one below the other in the picture."""
    networks: dict[str, PicturedNetwork] = Field(min_length=1)
    """Networks by the name of their row."""
    num_frames: int = Field(default=8, ge=1)
    """Number of frames to show, spread over the video; a video network sees them as one clip."""
    heads: bool = False
    """Draw one row per head instead of the mean over heads."""
    input_size: int | None = Field(default=None, ge=16)
    """Input side of the networks in pixels; null: each network's own. A larger side gives a finer map."""
    size: int = Field(default=160, ge=16)
    """Side of a frame in the picture, in pixels."""
    decoder: str = "pyav"
    """Decoder that reads the frames."""
    device: str = "auto"
    """Device on which the networks run: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    out: str
    """File of the picture to write; PNG or JPEG by its suffix."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        check_picture(self.out)


class CostFigureSettings(Settings):
    """Settings of ``featcache figure cost``."""

    command: Literal["figure-cost"] = "figure-cost"
    """The command this file repeats."""
    tables: tuple[str, ...] = Field(min_length=1)
    """``table.json`` files of sweeps, or their folders; rows with the same name become one point."""
    cost: str = "MACs (G)"
    """Column on the horizontal axis, logarithmic."""
    accuracy: str = "top-1"
    """Column on the vertical axis."""
    memory: str | None = None
    """Column to which the area of the markers is proportional; null: all markers have the same area."""
    out: str
    """File of the picture to write, a PNG."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        check_picture(self.out)
        if Path(self.out).suffix.lower() != ".png":
            raise ConfigError(f"out is {self.out!r}; give the plot a name that ends in .png")


def check_picture(name: str) -> None:
    """Refuse a picture of another format.

    Raises:
        ConfigError: The suffix is not that of a PNG or JPEG file.
    """
    if Path(name).suffix.lower() not in PICTURES:
        raise ConfigError(f"out is {name!r}; give the picture a name that ends in .png or .jpg")
