"""Settings of scoring fine-tuned models on noisy test videos, without torch."""

from typing import Literal

from pydantic import Field

from featcache.config import Settings
from featcache.errors import ConfigError
from featcache.metrics.settings import IntervalSettings
from featcache.noise import KINDS, SEVERITIES, Kind, NoiseRecipe, Place, Table


class NoiseEvaluationSettings(Settings):
    """Settings of ``featcache evaluate noise``."""

    command: Literal["evaluate-noise"] = "evaluate-noise"
    """The command this file repeats."""
    runs: tuple[str, ...] = Field(min_length=1)
    """Folders of finished `train finetune` runs, or of their seeds."""
    noise: tuple[Kind, ...] = Field(default=KINDS, min_length=1)
    """Kinds of noise: ``gaussian``, ``shot``, ``impulse``, ``speckle``."""
    severity: tuple[int, ...] = Field(default=SEVERITIES, min_length=1)
    """Severities, 1 to 5."""
    table: Table = "video"
    """Constants of the severities: ``video``, or ``imagenet-c``."""
    place: Place = "frame"
    """``frame``: noise on the decoded frame, before crop and resize, as released; ``crop``: on the resized crop."""
    seed: int = 0
    """Seed of the noise."""
    num_clips: int | None = Field(default=None, ge=1)
    """Clips of a test video; null: as the run was tested."""
    num_crops: int | None = Field(default=None, ge=1)
    """Crops of each clip, spread over the longer side; null: as the run was tested."""
    intervals: IntervalSettings = IntervalSettings()
    """Settings of the intervals."""
    workers: int | None = Field(default=None, ge=0)
    """Number of decoding processes; 0: this process; null: one per core. Fewer are started if the views of a video with
    all noises are large."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    out: str | None = None
    """Folder of the results; null: ``runs/<source>/noise-<hash>``."""

    def model_post_init(self, context: object) -> None:
        """Check that nothing is named twice, and the severities."""
        for name in ("runs", "noise", "severity"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise ConfigError(f"{name} names {next(each for each in given if given.count(each) > 1)!r} twice")
        assert self.recipes, "checks the severities"

    @property
    def recipes(self) -> tuple[NoiseRecipe, ...]:
        """Every kind at every severity."""
        return tuple(
            NoiseRecipe(kind=kind, severity=severity, table=self.table, place=self.place, seed=self.seed)
            for kind in self.noise
            for severity in self.severity
        )
