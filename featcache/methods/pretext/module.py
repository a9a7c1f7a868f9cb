"""The module of a pretext task: a backbone whose network is kept, and what is discarded after training."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from featcache.backbones import Backbone
from featcache.backbones.trainable import ClipEncoder
from featcache.loaders.views import ClipShape
from featcache.methods.pretext.queue import KeyQueue
from featcache.recipes import FeatureRecipe
from featcache.training.shared_norm import uncounted
from featcache.training.world import ALONE, World

Reads = Literal["vector", "map"]
NO_QUEUES: Mapping[str, tuple[int, int]] = MappingProxyType({})


class KeyNetwork(ClipEncoder):
    """A network and heads that follow the trained ones; they get no gradient.

    Attributes:
        heads: Heads by name.
    """

    def __init__(
        self, backbone: Backbone, recipe: FeatureRecipe, *, num_frames: int, heads: Mapping[str, nn.Module]
    ) -> None:
        """Take a backbone and heads of which nothing else is a part; see :class:`PretextModule`."""
        super().__init__(backbone, recipe, num_frames=num_frames)
        self.heads = nn.ModuleDict(heads)
        self.requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of BatchNorms alone: nothing else, such as dropout, is random in a key network (MoCo)."""
        super().train(mode=False)
        for part in self.modules():
            if isinstance(part, _BatchNorm):
                part.training = mode
        return self


class PretextModule(ClipEncoder):
    """A backbone and the heads of a task; only the network is kept after training.

    Attributes:
        heads: Heads by name. A head may hold buffers, which are part of checkpoints.
        queues: Queues of earlier keys by name, which are part of checkpoints.
        follower: The key network, if the task has one.
        world: The processes that share each batch, for losses that compare the clips of a whole batch: ``loss`` sees
            this process's clips, ``world.gather`` and ``world.gather_trained`` give those of all.
    """

    def __init__(
        self,
        backbone: Backbone,
        recipe: FeatureRecipe,
        *,
        num_frames: int,
        heads: Callable[[int], Mapping[str, nn.Module]],
        reads: Reads = "vector",
        queues: Mapping[str, tuple[int, int]] = NO_QUEUES,
        follower: Backbone | None = None,
        world: World = ALONE,
    ) -> None:
        """Put new heads on a backbone.

        Args:
            backbone: The built, frozen backbone.
            recipe: Recipe of a single vector per clip, in float32.
            num_frames: Number of frames per clip.
            heads: Builds the heads, given the number of channels of what they read.
            reads: What the heads read: the network's vectors, or its last map.
            queues: Numbers of keys and of their channels, by the name of a queue.
            follower: The same backbone, built a second time; ``None``: there is no key network.
            world: The processes that share each batch.

        Raises:
            ConfigError: The backbone cannot take such clips, or has no map to read.
        """
        super().__init__(backbone, recipe, num_frames=num_frames)
        channels = self.width if reads == "vector" else self.map_channels()
        self.heads = nn.ModuleDict(heads(channels))
        self.queues = nn.ModuleDict({name: KeyQueue(*sizes) for name, sizes in queues.items()})
        self.world = world
        self.follower: KeyNetwork | None = None
        if follower is not None:
            self.follower = KeyNetwork(follower, recipe, num_frames=num_frames, heads=heads(channels))
            self.follower.network.load_state_dict(self.network.state_dict())
            self.follower.heads.load_state_dict(self.heads.state_dict())

    @property
    def shape(self) -> ClipShape:
        """Shape of the network's input clips."""
        return ClipShape(self.num_frames, self.recipe.input_size, self.recipe.interpolation)

    def placed(self, device: torch.device | str) -> Self:
        """Move the module and its key network to a device, where their backbones then expect clips."""
        if self.follower is not None:
            self.follower.placed(device)
        return super().placed(device)

    def projected(self, clips: Tensor) -> dict[str, Tensor]:
        """What each head makes of the vectors of clips uint8 [B, T, 3, S, S], at unit length, float32 [B, C]."""
        return _projected(self, self.heads, clips)

    @torch.no_grad()
    def keys(self, clips: Tensor, *, splits: int) -> dict[str, Tensor]:
        """As :meth:`projected`, by the key network and without a gradient.

        The clips of all processes pass it in parts, of which each takes every ``splits``-th clip. The order of a batch
        is random, so that a BatchNorm sees other clips beside a key than beside its query, as with a shuffled BatchNorm
        of several processes (MoCo), and cannot tell the query by them.

        Args:
            clips: uint8 [B, T, 3, S, S], this process's share of a batch.
            splits: Number of parts; at most so many are made that each has two clips, which a BatchNorm needs.
        """
        assert self.follower is not None, "the task has no key network"
        count, heads = len(clips), self.follower.heads
        before = self.world.rank * count  # clips of the batch that other processes have
        splits = min(splits, max(1, self.world.size * count // 2))
        parts: list[dict[str, Tensor]] = []
        order: list[int] = []
        for part in range(splits):
            own = range((part - before) % splits, count, splits)
            if own:
                parts.append(_projected(self.follower, heads, clips[own.start :: splits]))
                order.extend(own)
            else:  # the others have such clips, and their BatchNorms wait for this process
                with uncounted(self.follower):
                    _projected(self.follower, heads, clips[:1])
        back = torch.tensor(order, device=clips.device).argsort()
        return {name: torch.cat([part[name] for part in parts])[back] for name in self.heads}

    def push(self, name: str, keys: Tensor) -> None:
        """Put keys [B, C], those of all processes, into a queue."""
        queue = self.queues[name]
        assert isinstance(queue, KeyQueue)
        queue.push(self.world.gather(keys.detach()))

    def negatives(self, name: str) -> Tensor:
        """The keys of a queue, float32 [K, C]; see :meth:`KeyQueue.negatives`."""
        queue = self.queues[name]
        assert isinstance(queue, KeyQueue)
        return queue.negatives()

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Keep ``momentum`` of each weight of the key network and take the rest from the trained one."""
        assert self.follower is not None, "the task has no key network"
        keys: list[Tensor] = [*self.follower.network.parameters(), *self.follower.heads.parameters()]
        trained: list[Tensor] = [*self.network.parameters(), *self.heads.parameters()]
        torch._foreach_lerp_(keys, trained, 1.0 - momentum)


def _projected(encoder: ClipEncoder, heads: nn.ModuleDict, clips: Tensor) -> dict[str, Tensor]:
    vectors = encoder.features(clips)
    return {name: functional.normalize(head(vectors).float(), dim=1) for name, head in heads.items()}
