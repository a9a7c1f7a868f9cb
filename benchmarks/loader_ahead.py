"""How busy a training's decoding processes are kept: videos per second against processes divided by latency.

The source sleeps instead of decoding, so that more processes than cores can be asked. The training takes every batch as
soon as it is there; the first epoch, in which processes start, is not counted.

    uv run python benchmarks/loader_ahead.py
    uv run python benchmarks/loader_ahead.py --workers 4 --latency 0.1
"""

import time
from pathlib import Path

import numpy as np
from common import parser, report

from featcache.data.types import VideoRecord
from featcache.loaders.ahead import ViewLoader
from featcache.loaders.batches import VideoBatches
from featcache.loaders.videos import VideoFile, VideoFiles


class Sleeping:
    """A source of which each video takes the same time."""

    def __init__(self, *, latency: float) -> None:
        self._latency = latency

    def pixels(self, file: VideoFile, epoch: int) -> tuple[np.ndarray]:
        """One number, late."""
        time.sleep(self._latency)
        return (np.array([int(file.video.id)]),)


def main() -> None:
    """Measure."""
    options = parser(__doc__)
    options.add_argument("--workers", type=int, default=16)
    options.add_argument("--latency", type=float, default=0.36, help="seconds per video")
    options.add_argument("--batch", type=int, default=4)
    options.add_argument("--epochs", type=int, default=4)
    options.add_argument("--videos", type=int, default=128, help="per epoch")
    args = options.parse_args()
    videos = [VideoRecord(id=str(number), path="unread.mp4") for number in range(args.videos)]
    files = VideoFiles(videos, [Path("unread.mp4")] * args.videos, decoder="pyav")
    with ViewLoader(Sleeping(latency=args.latency), files, workers=args.workers) as loader:
        batches = VideoBatches(loader, batch_size=args.batch, num_epochs=args.epochs, seed=0)
        started = 0.0
        for epoch in range(args.epochs):
            if epoch == 1:  # all processes have begun
                started = time.perf_counter()
            for number in range(batches.num_batches):
                batches.views(epoch, number)
        seconds = time.perf_counter() - started
    rate, bound = (args.epochs - 1) * batches.num_items / seconds, args.workers / args.latency
    row = {"videos/s": round(rate, 1), "processes / latency": round(bound, 1), "share": round(rate / bound, 3)}
    report("decoding ahead", [row], as_json=args.json)


if __name__ == "__main__":
    main()
