"""The module of a pretext task: a backbone whose network is kept, and heads that are not."""

from collections.abc import Callable, Mapping

from torch import nn

from featcache.backbones import Backbone
from featcache.backbones.trainable import ClipEncoder
from featcache.loaders.views import ClipShape
from featcache.recipes import FeatureRecipe


class PretextModule(ClipEncoder):
    """A backbone and the heads of a task; what is kept is the network.

    Attributes:
        heads: By name. A head may hold buffers, such as a queue of keys, which checkpoints keep.
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
            backbone: As built: frozen.
            recipe: A single vector per clip, in float32.
            num_frames: Frames of a clip.
            heads: Makes the heads for vectors of so many channels.
        """
        super().__init__(backbone, recipe, num_frames=num_frames)
        self.heads = nn.ModuleDict(heads(self.width))

    @property
    def shape(self) -> ClipShape:
        """A clip as the network takes it."""
        return ClipShape(self.num_frames, self.recipe.input_size, self.recipe.interpolation)
