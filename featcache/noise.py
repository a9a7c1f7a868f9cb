"""Noise by which robustness is measured: four kinds at five severities, as a value."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from featcache.errors import ConfigError, unknown_name

Kind = Literal["gaussian", "shot", "impulse", "speckle"]
Table = Literal["video", "imagenet-c"]
Place = Literal["frame", "crop"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SEVERITIES = (1, 2, 3, 4, 5)
_ALIKE: Mapping[Kind, tuple[float, ...]] = {
    "gaussian": (0.08, 0.12, 0.18, 0.26, 0.38),
    "impulse": (0.03, 0.06, 0.09, 0.17, 0.27),
}
AMOUNTS: Mapping[Table, Mapping[Kind, tuple[float, ...]]] = {
    "video": {**_ALIKE, "shot": (250, 100, 50, 30, 15), "speckle": (0.15, 0.2, 0.25, 0.3, 0.35)},
    "imagenet-c": {**_ALIKE, "shot": (60, 25, 12, 5, 3), "speckle": (0.15, 0.2, 0.35, 0.45, 0.6)},
}
"""Constants of severities 1 to 5: those of Schiappa et al. for videos, and those of Hendrycks and Dietterich."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseRecipe:
    """Noise on every frame, drawn anew for each.

    A frame's noise is a function of seed, video id, frame index, kind and severity alone. With x in [0, 1], the result
    is cut to [0, 1] and to whole 255ths, downwards, as in the released code.

    Attributes:
        kind: ``gaussian``: x + N(0, c). ``shot``: Poisson(x c) / c. ``impulse``: a share c of all values becomes 0 or
            1, half each, every channel by itself. ``speckle``: x + x N(0, c). N(0, c) has the standard deviation c.
        severity: 1 to 5, from which :data:`AMOUNTS` gives the constant c.
        table: ``video``: constants for videos; ``imagenet-c``: those of ImageNet-C, stronger for shot and speckle.
        place: ``frame``: on the decoded frame before crop and resize, as released, so that the resize averages over
            noise. ``crop``: on the resized crop, before any change of colours; all crops of a frame that have the same
            size then have the same draw.
        seed: Seed of the noise, together with the video id and the frame index.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    kind: Kind
    severity: int
    table: Table = "video"
    place: Place = "frame"
    seed: int = 0

    def __post_init__(self) -> None:
        for what, name, known in (("kind of noise", self.kind, KINDS), ("table of noise", self.table, AMOUNTS)):
            if name not in known:
                raise unknown_name(what, name, known)
        if self.place not in get_args(Place):
            raise unknown_name("place of noise", self.place, get_args(Place))
        if self.severity not in SEVERITIES:
            raise ConfigError(f"noise severity is {self.severity}; it must be a whole number from 1 to 5")

    @property
    def amount(self) -> float:
        """The constant c of this kind and severity."""
        return AMOUNTS[self.table][self.kind][self.severity - 1]

    def __str__(self) -> str:
        return f"{self.kind} {self.severity}"
