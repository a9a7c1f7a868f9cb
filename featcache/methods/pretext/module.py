"""The module of a pretext task: a backbone whose network is kept, and heads that are discarded after training."""

from collections.abc import Callable, Mapping

from torch import nn

from featcache.backbones import Backbone
from featcache.backbones.trainable import ClipEncoder
from featcache.loaders.views import ClipShape
from featcache.recipes import FeatureRecipe


class PretextModule(ClipEncoder):
    """A backbone and the heads of a task; only the network is kept after training.

    Attributes:
        heads: Heads by name. A head may hold buffers, such as a queue of keys, which are part of checkpoints.
    """

    def __init__(
        self,
        backbone: Backbone,
        recipe: FeatureRecipe,
        *,
        num_frames: int,
        heads: Callable[[int], Mapping[str, nn.Module]],
    ) -> None:
        """Put new heads on a backbone.

        Args:
            backbone: The built, frozen backbone.
            recipe: Recipe of a single vector per clip, in float32.
            num_frames: Number of frames per clip.
            heads: Builds the heads, given the number of channels of the network's vectors.
        """
        super().__init__(backbone, recipe, num_frames=num_frames)
        self.heads = nn.ModuleDict(heads(self.width))

    @property
    def shape(self) -> ClipShape:
        """Shape of the network's input clips."""
        return ClipShape(self.num_frames, self.recipe.input_size, self.recipe.interpolation)
