"""How far decoding runs ahead of the training."""

from pathlib import Path

import numpy as np
import pytest

from featcache.data.types import VideoRecord
from featcache.loaders.ahead import Batch, ViewLoader
from featcache.loaders.videos import VideoFiles


class Numbers:
    """A source whose one view is the number of the video and of the epoch."""

    def pixels(self, file, epoch):
        return (np.array([int(file.video.id), epoch]),)


def numbered(num_videos):
    """Videos whose ids are their numbers; their files are never opened."""
    videos = [VideoRecord(id=str(number), path=f"{number}.mp4") for number in range(num_videos)]
    return VideoFiles(videos, [Path(video.path) for video in videos], decoder="pyav")


BATCHES = [Batch(epoch, (2 * number, 2 * number + 1)) for epoch in range(3) for number in range(4)]


@pytest.mark.parametrize(("workers", "num_ahead"), [(1, 1), (3, 3)])
def test_every_process_has_two_videos_to_go_on_with_whatever_the_batch(workers, num_ahead):
    with ViewLoader(Numbers(), numbered(8), workers=workers) as loader:
        for place, batch in enumerate(BATCHES):
            (views,) = loader.views(batch, following=iter(BATCHES[place + 1 :])).arrays
            assert views.tolist() == [[video, batch.epoch] for video in batch.videos]
            assert list(loader._pending) == BATCHES[place + 1 : place + 1 + num_ahead]
