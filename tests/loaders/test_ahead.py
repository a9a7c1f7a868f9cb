"""How far decoding runs ahead of the training."""

from types import SimpleNamespace

import numpy as np
import pytest

from featcache.loaders.ahead import Batch, ViewLoader


class Numbers:
    """A source whose one view is the number of the video and of the epoch."""

    files = SimpleNamespace(videos=())

    def pixels(self, video, epoch):
        return (np.array([video, epoch]),)


BATCHES = [Batch(epoch, (2 * number, 2 * number + 1)) for epoch in range(3) for number in range(4)]


@pytest.mark.parametrize(("workers", "num_ahead"), [(1, 1), (3, 3)])
def test_every_process_has_two_videos_to_go_on_with_whatever_the_batch(workers, num_ahead):
    with ViewLoader(Numbers(), workers=workers) as loader:
        for place, batch in enumerate(BATCHES):
            (views,) = loader.views(batch, following=iter(BATCHES[place + 1 :]))
            assert views.tolist() == [[video, batch.epoch] for video in batch.videos]
            assert list(loader._pending) == BATCHES[place + 1 : place + 1 + num_ahead]
