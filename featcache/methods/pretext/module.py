"""The module of a pretext task: a backbone whose network is kept, and heads that are discarded after training."""

from collections.abc import Callable, Mapping

from torch import nn

from featcache.backbones import Backbone
from featcache.backbones.trainable import ClipEncoder
from featcache.loaders.views import ClipShape
from featcache.recipes import FeatureRecipe
from featcache.training.world import ALONE, World


class PretextModule(ClipEncoder):
    """A backbone and the heads of a task; only the network is kept after training.

    Attributes:
        heads: Heads by name. A head may hold buffers, such as a queue of keys, which are part of checkpoints.
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
        world: World = ALONE,
    ) -> None:
        """Put new heads on a backbone.

        Args:
            backbone: The built, frozen backbone.
            recipe: Recipe of a single vector per clip, in float32.
            num_frames: Number of frames per clip.
            heads: Builds the heads, given the number of channels of the network's vectors.
            world: The processes that share each batch.
        """
        super().__init__(backbone, recipe, num_frames=num_frames)
        self.heads = nn.ModuleDict(heads(self.width))
        self.world = world

    @property
    def shape(self) -> ClipShape:
        """Shape of the network's input clips."""
        return ClipShape(self.num_frames, self.recipe.input_size, self.recipe.interpolation)
