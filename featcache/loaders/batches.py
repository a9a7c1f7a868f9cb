"""The one order of batches: a new permutation of the items in every epoch, and the videos that it names."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from featcache.errors import ConfigError
from featcache.loaders.ahead import Batch, ViewLoader, Views
from featcache.loaders.orders import Order
from featcache.seeding import rng_for
from featcache.training.world import ALONE, World


class BatchOrder:
    """Which items make each batch: a pure function of seed, epoch and number; an incomplete last batch is left out.

    Attributes:
        batch_size: Items of a batch, those of all processes.
        num_batches: Batches of an epoch.
        num_items: Items of an epoch.
        share: The places of a batch whose items belong to this process.
    """

    def __init__(
        self,
        items: npt.NDArray[np.int64],
        *,
        batch_size: int,
        seed: int,
        order: Order | None = None,
        world: World = ALONE,
    ) -> None:
        """Take items as they are numbered.

        Args:
            items: int64 [N], their numbers.
            batch_size: Items of a batch; fewer items than that are one batch.
            seed: Seed of the run.
            order: The order of an epoch; ``None``: a full shuffle.
            world: The processes that share each batch.

        Raises:
            ConfigError: There are fewer items than processes, or the processes cannot share a batch equally.
        """
        self._items = items
        self._seed = seed
        self._order = order
        self._shuffled: dict[int, npt.NDArray[np.int64]] = {}
        self.batch_size = min(batch_size, len(items))
        if self.batch_size < batch_size and self.batch_size % world.size:
            raise _unequal(len(items), batch_size, world)
        self.share = world.share(self.batch_size)
        self.num_batches = len(items) // self.batch_size
        self.num_items = self.num_batches * self.batch_size

    def own(self, epoch: int, number: int) -> npt.NDArray[np.int64]:
        """Items of one batch that belong to this process, int64 [batch_size / processes]."""
        return self.batch(epoch, number)[self.share]

    def batch(self, epoch: int, number: int) -> npt.NDArray[np.int64]:
        """Items of one batch, int64 [batch_size]."""
        if epoch not in self._shuffled:
            kept = {near: order for near, order in self._shuffled.items() if abs(near - epoch) == 1}
            self._shuffled = kept | {epoch: self._permuted(rng_for(self._seed, "videos", epoch))}
        return self._shuffled[epoch][number * self.batch_size : (number + 1) * self.batch_size]

    def _permuted(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        return rng.permutation(self._items) if self._order is None else self._items[self._order(rng)]


class VideoBatches:
    """Batches of the views of a loader's videos, decoded while earlier ones are trained on, across epochs too.

    Attributes:
        num_batches: Batches of an epoch.
        num_items: Videos of an epoch, those of all processes.
    """

    def __init__(
        self, loader: ViewLoader, *, batch_size: int, num_epochs: int, seed: int, world: World = ALONE
    ) -> None:
        """Put the videos of a loader in order.

        Args:
            loader: Where views come from.
            batch_size: Videos of a batch, those of all processes.
            num_epochs: Number of epochs, after which nothing is decoded ahead.
            seed: Seed of the run.
            world: The processes that share each batch.

        Raises:
            ConfigError: Fewer videos than a batch, or processes that cannot share it equally.
        """
        num_videos = len(loader.files.videos)
        if num_videos < world.size:
            raise _unequal(num_videos, batch_size, world)
        if num_videos < batch_size:
            raise ConfigError(
                f"{num_videos} training videos make no batch of {batch_size}; give more videos, or set "
                f"training.batch_size={num_videos} or less"
            )
        self._loader = loader
        self._num_epochs = num_epochs
        self._order = BatchOrder(np.arange(num_videos), batch_size=batch_size, seed=seed, world=world)
        self.num_batches = self._order.num_batches
        self.num_items = self._order.num_items

    def views(self, epoch: int, number: int) -> Views:
        """Views of this process's share of a batch; see :meth:`ViewLoader.views` for the errors."""
        return self._loader.views(self._batch(epoch, number), following=self._after(epoch, number))

    def _after(self, epoch: int, number: int) -> Iterator[Batch]:
        yield from (self._batch(epoch, later) for later in range(number + 1, self.num_batches))
        for later_epoch in range(epoch + 1, self._num_epochs):
            yield from (self._batch(later_epoch, later) for later in range(self.num_batches))

    def _batch(self, epoch: int, number: int) -> Batch:
        return Batch(epoch, tuple(self._order.own(epoch, number).tolist()))


def _unequal(num_videos: int, batch_size: int, world: World) -> ConfigError:
    """The error of so few videos that processes have nothing to share, or cannot share it equally."""
    if num_videos < world.size:
        return ConfigError(
            f"{world.size} processes share each batch of videos, and there are {num_videos} to train on; start fewer "
            "processes, or give more videos"
        )
    return ConfigError(
        f"{num_videos} training videos are fewer than training.batch_size {batch_size}, and {world.size} processes "
        f"cannot share a batch of {num_videos} equally; set training.batch_size={num_videos // world.size * world.size}"
    )
