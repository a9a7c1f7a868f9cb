"""Settings of confidence intervals, and of nearest neighbours, without torch."""

from dataclasses import dataclass
from typing import Any, ClassVar

from featcache.errors import ConfigError

NUM_NEIGHBOURS = 20
"""Number of neighbours that vote (DINO, SVT)."""
TEMPERATURE = 0.07
"""A neighbour of cosine s votes with weight exp(s / temperature) (Wu et al., CVPR 2018)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalSettings:
    """Settings of the interval of a metric.

    Attributes:
        num_resamples: Number of bootstrap resamples of the videos (and of the seeds, if there are several).
        confidence: Share of the resamples inside the interval.
        seed: Seed of the resampling.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    num_resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_resamples < 1:
            raise ConfigError(f"num_resamples is {self.num_resamples}; it must be at least 1, 1000 or more is usual")
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence is {self.confidence}; it must be between 0 and 1, e.g. 0.95")
