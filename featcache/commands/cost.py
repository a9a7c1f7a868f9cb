"""``cost-backbone``: what a backbone computes for a video; for tables that print operations beside accuracies."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from featcache.config import Settings, to_yaml
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.stages import OnStage, ignore
from featcache.summary import Summary

MEGA, GIGA, TERA = 1e6, 1e9, 1e12


class BackboneCostSettings(Settings):
    """Settings of ``cost-backbone``: parameters and operations of a backbone, counted on a blank clip."""

    command: Literal["cost-backbone"] = "cost-backbone"
    """The command this file repeats."""
    backbone: str
    """Registry name, e.g. ``svt-b``."""
    weights: str = "random"
    """Weights, on whose values no count depends: ``random``, ``default`` or a file."""
    num_frames: int | None = Field(default=None, ge=1)
    """Number of frames per clip; null: the backbone's, or 8 for an image backbone."""
    input_size: int | None = Field(default=None, ge=1)
    """Input side in pixels; null: the backbone's."""
    num_views: int = Field(default=1, ge=1)
    """Number of views of a video, e.g. 3 for one clip in three crops."""
    num_classes: int | None = Field(default=None, ge=1)
    """Count a linear head for so many classes too; null: none."""
    out: str | None = None
    """Folder of the result; null: ``runs/<backbone>/cost-<hash>``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneCost:
    """Counts of a backbone.

    Attributes:
        folder: Folder of the result.
        backbone: Registry name.
        clip: Frames, height and width of a view.
        num_views: Number of views of a video.
        cost: ``megaparameters`` in millions (1e6), ``teramacs``: multiply-accumulates of all views in 1e12, and
            ``gigaflops``: two operations for each of them, in 1e9.
    """

    folder: str
    backbone: str
    clip: tuple[int, int, int]
    num_views: int
    cost: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    def summary(self) -> Summary:
        """All numbers."""
        frames, height, width = self.clip
        return Summary(
            facts={
                "backbone": self.backbone,
                "views": f"{self.num_views} of {frames} frames of {height} x {width}",
                "parameters": f"{self.cost['megaparameters']:.4g} million",
                "operations": f"{self.cost['teramacs']:.3g} T multiply-accumulates per video",
                "run": self.folder,
            }
        )


def count_backbone(settings: BackboneCostSettings, *, on_stage: OnStage = ignore) -> BackboneCost:
    """Count parameters and multiply-accumulates of a backbone by a forward pass of one blank clip.

    Args:
        settings: The backbone and its views.
        on_stage: Called with the stage ``count`` before and after the pass.

    Raises:
        ConfigError: The backbone cannot take such clips.
        UnknownNameError: There is no such backbone.
        WeightsError: The weights cannot be found or do not fit.
    """
    from featcache.backbones import build_backbone
    from featcache.backbones.outputs import macs_per_row, record_spec
    from featcache.backbones.trainable import clip_feature, clip_length
    from featcache.networks.counting import count_parameters
    from featcache.training.runs import run_folder

    on_stage("count", 0, 1)
    backbone = build_backbone(settings.backbone, weights=settings.weights)
    num_frames = clip_length(backbone, settings.num_frames)
    recipe = clip_feature(backbone, settings.backbone, num_frames=num_frames, input_size=settings.input_size)
    num_parameters = count_parameters(backbone.network)
    macs = macs_per_row(backbone, recipe, num_frames=num_frames)
    if settings.num_classes is not None:
        width = record_spec(backbone, recipe, num_frames=num_frames, layout="clips").shape[-1]
        num_parameters += settings.num_classes * (width + 1)
        macs += settings.num_classes * width
    macs *= settings.num_views
    on_stage("count", 1, 1)
    folder = run_folder(settings, out=settings.out, store=settings.backbone, name="cost")
    result = BackboneCost(
        folder=str(folder),
        backbone=settings.backbone,
        clip=(num_frames, recipe.input_size, recipe.input_size),
        num_views=settings.num_views,
        cost={"megaparameters": num_parameters / MEGA, "teramacs": macs / TERA, "gigaflops": 2 * macs / GIGA},
    )
    put_replace(Path(folder) / "config.yaml", to_yaml(settings).encode())
    put_replace(Path(folder) / "result.json", canonical_json(result.to_dict()))
    return result
