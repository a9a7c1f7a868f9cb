"""Settings of confidence intervals, without torch."""

from dataclasses import dataclass
from typing import Any, ClassVar

from featcache.errors import ConfigError


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
