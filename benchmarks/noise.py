"""CPU time that noise adds to decoding test clips, by kind and place, on 320x240 videos.

    python benchmarks/noise.py [VIDEO ...] [--repeats 5] [--json]

Without VIDEO, one of 250 frames is generated: 320x240, H.264 with B-frames and a key frame every 4 seconds, as long as
a video of Kinetics at 25 frames per second. Each side opens the video, decodes the clips, and resizes the centred
square of 0.875 of the shorter side to 112 pixels; runs are interleaved. `overhead` is the median over repeats of the
time with noise over that without, minus 1; `noise ms` is the time that noise adds per frame that is needed.
"""

import statistics
import tempfile
import time
from pathlib import Path

from common import parser, report

from featcache.data.decoding import open_video
from featcache.data.decoding.clips import MAX_BATCH_BYTES, CropSize, decode_rows
from featcache.data.sampling import sample_rows
from featcache.noise import KINDS, NoiseRecipe
from featcache.recipes import SamplingRecipe
from featcache.testing.videos import write_video

SEVERITY = 3
SIZE = CropSize(size=112, interpolation="bilinear")
CLIPS = {
    "1 clip of 16 over the video": SamplingRecipe(temporal="spread", num_clips=1, num_frames=16),
    "3 clips of 16, stride 2": SamplingRecipe(num_clips=3, num_frames=16, frame_stride=2),
    "10 clips of 16, stride 1": SamplingRecipe(num_clips=10, num_frames=16, frame_stride=1),
}


def decode(path: Path, recipe: SamplingRecipe) -> tuple[float, int]:
    """CPU seconds of one pass over a video, and the number of frames that were needed."""
    started = time.process_time()
    with open_video(path) as reader:
        specs = sample_rows(recipe, reader.timeline, path.name)
        for _ in decode_rows(reader, specs, [SIZE], max_batch_bytes=MAX_BATCH_BYTES):
            pass
    return time.process_time() - started, len({frame for spec in specs for frame in spec.frames})


def measure(path: Path, repeats: int) -> list[dict[str, object]]:
    """A row for each pattern of clips and each noise."""
    import dataclasses

    noises = [NoiseRecipe(kind=kind, severity=SEVERITY) for kind in KINDS]
    noises.append(NoiseRecipe(kind="gaussian", severity=SEVERITY, place="crop"))
    rows = []
    for name, clean in CLIPS.items():
        noisy = {noise: dataclasses.replace(clean, noise=noise) for noise in noises}
        for recipe in noisy.values():  # tables are computed once per process
            decode(path, recipe)
        before: list[float] = []
        after: dict[NoiseRecipe, list[float]] = {noise: [] for noise in noises}
        needed = 0
        for _ in range(repeats):
            seconds, needed = decode(path, clean)
            before.append(seconds)
            for noise, recipe in noisy.items():
                after[noise].append(decode(path, recipe)[0])
        for noise, seconds_each in after.items():
            ratios = [mine / plain for mine, plain in zip(seconds_each, before, strict=True)]
            added = statistics.median(seconds_each) - statistics.median(before)
            rows.append(
                {
                    "video": path.name,
                    "clips": name,
                    "noise": f"{noise.kind}, {noise.place}",
                    "frames needed": needed,
                    "decoding ms": 1000 * statistics.median(before),
                    "noise ms": 1000 * added / needed,
                    "overhead": f"{100 * (statistics.median(ratios) - 1):.0f} %",
                }
            )
    return rows


def main() -> None:
    """Print the table."""
    import torch

    words = parser(__doc__)
    words.add_argument("videos", nargs="*", type=Path)
    given = words.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        videos = given.videos
        if not videos:
            videos = [Path(folder) / "generated.mp4"]
            write_video(videos[0], num_frames=250, width=320, height=240, fps=25, options={"bf": "2", "g": "100"})
        rows = [row for path in videos for row in measure(path, given.repeats)]
    report("noise", rows, as_json=given.json)


if __name__ == "__main__":
    main()
