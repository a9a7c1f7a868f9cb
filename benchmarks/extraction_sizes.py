"""What the shipped extractions of whole data sets store, in bytes, without any video or weights.

For every extraction in `configs/`, alone or a step of a pipeline or table: the rows that its sampling gives the
official numbers of videos, times the bytes of a row of each array. These are the numbers of `featcache extract
--dry-run` on such a data set: rows are counted by the same code, and records have the shapes of the built backbones.
The mean number of frames matters for frame banks alone, and is an assumption: `--frames ucf101=186` gives another.

    uv run python benchmarks/extraction_sizes.py
    uv run python benchmarks/extraction_sizes.py configs/advise/ucf101_extract.yaml
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from common import parser, report

from featcache.backbones import Backbone, build_backbone
from featcache.commands.registry import load
from featcache.commands.steps import PipelineSettings, parse_steps, pipeline_steps
from featcache.commands.sweeps import SweepSettings, sweep_steps
from featcache.data.types import VideoRecord
from featcache.extract.lacking import rows_per_video
from featcache.extract.prepare import bind_feature
from featcache.extract.settings import ExtractSettings
from featcache.recipes import SamplingRecipe
from featcache.units import readable_bytes

CONFIGS = Path(__file__).parent.parent / "configs"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A data set as a whole.

    Attributes:
        videos: Number of videos by split; the split without a name has views of training videos.
        frames: Mean number of frames of a video.
        fps: Frames per second.
    """

    videos: Mapping[str, int]
    frames: int
    fps: float


FACTS = {
    "ucf101": Facts(videos={"train": 9537, "test": 3783}, frames=182, fps=25),
    "hmdb51": Facts(videos={"train": 3570, "test": 1530, "": 1666}, frames=94, fps=30),
    "kinetics400": Facts(videos={"train": 240_000, "val": 20_000}, frames=300, fps=30),
    "ssv2": Facts(videos={"train": 168_913, "val": 24_777, "test": 27_157}, frames=48, fps=12),
    "diving48": Facts(videos={"train": 15_027, "test": 1970}, frames=159, fps=30),
    "lvu": Facts(videos={"": 11_565}, frames=3000, fps=25),
}
"""Official numbers of videos (LVU: the lines of all nine tasks, so at most), and assumed lengths."""


def main() -> None:
    """Print one line per extraction and array."""
    options = parser(__doc__)
    options.add_argument("files", nargs="*", type=Path, help="shipped files; all without any")
    options.add_argument("--frames", action="append", default=[], help="mean frames of a data set, e.g. ucf101=186")
    args = options.parse_args()
    facts = dict(FACTS)
    for name, frames in (text.split("=") for text in args.frames):
        facts[name] = replace(facts[name], frames=int(frames))
    built: dict[str, Backbone] = {}
    rows = []
    for path, settings in extractions(args.files or sorted(CONFIGS.rglob("*.yaml"))):
        sampling, sizes = None, {}
        for feature in settings.features:
            if feature.backbone not in built:
                built[feature.backbone] = build_backbone(feature.backbone, weights="random")
            backbone = built[feature.backbone]
            sampling = sampling or sampling_of(settings, backbone)
            bound = bind_feature(feature, backbone, sampling)
            sizes[bound.name] = bound.record.num_bytes
        assert sampling is not None, "settings name at least one feature"
        num_rows = count(sampling, facts[str(settings.dataset)])
        for name, row_bytes in sizes.items():
            line = {"file": str(path.relative_to(CONFIGS)), "data set": settings.dataset, "array": name}
            rows.append(
                {
                    **line,
                    "rows": num_rows,
                    "a row": readable_bytes(row_bytes),
                    "size": readable_bytes(num_rows * row_bytes),
                }
            )
    lengths = ", ".join(f"{name} {each.frames}" for name, each in facts.items())
    report("sizes of shipped extractions", rows, as_json=args.json, notes=[f"mean frames of a video: {lengths}"])


def extractions(paths: list[Path]) -> Iterator[tuple[Path, ExtractSettings]]:
    """The different extractions of public data sets in shipped files; one that several files have is given once."""
    seen = set()
    for path in paths:
        settings = load(path)
        steps = [settings]
        if isinstance(settings, PipelineSettings):
            steps = parse_steps(pipeline_steps(settings))
        elif isinstance(settings, SweepSettings):
            steps = [step for row in sweep_steps(settings) for step in parse_steps(row)]
        for step in steps:
            if not isinstance(step, ExtractSettings) or step.dataset is None:
                continue
            unnamed = [feature.model_copy(update={"weights": "random"}) for feature in step.features]
            key = (step.dataset, step.sampling.model_dump_json(), *(feature.model_dump_json() for feature in unnamed))
            if key not in seen:
                seen.add(key)
                yield path.resolve(), step


def sampling_of(settings: ExtractSettings, backbone: Backbone) -> SamplingRecipe:
    """The recipe of a new store whose first backbone is given."""
    card = backbone.card
    return settings.sampling.resolve(
        num_frames=card.num_frames, frame_stride=card.frame_stride, crop_fraction=card.crop_fraction
    )


def count(sampling: SamplingRecipe, facts: Facts) -> int:
    """Number of rows of a data set."""
    videos = [
        VideoRecord(
            id=split, path=split, split=split, num_frames=facts.frames, duration_seconds=facts.frames / facts.fps
        )
        for split in facts.videos
    ]
    counts = rows_per_video(videos, sampling)
    return sum(number * rows for number, rows in zip(facts.videos.values(), counts, strict=True))


if __name__ == "__main__":
    main()
