"""Video Swin-T as torchvision builds it (``swin3d_t``): 27,850,470 parameters without a head.

From 16 frames of 112 pixels to 8 x 4 x 4 x 768; the vector is its average, without a projection. Modules have
torchvision's names.
"""

from collections.abc import Collection

from torch import Tensor, nn
from torchvision.models.video.swin_transformer import SwinTransformer3d

from featcache.networks.clip_network import ClipNetwork, run_steps, scaled

HEADS = (3, 6, 12, 24)
"""Heads of attention in each stage, also of a thin network."""
EMBEDDING, DEPTHS, PATCH, WINDOW = 96, (2, 2, 6, 2), (2, 4, 4), (8, 7, 7)
DROP_PATH = 0.1


class Swin3d(ClipNetwork):
    """Layers are the four stages, before their tokens are merged, and ``norm``."""

    layers = ("features.0", "features.2", "features.4", "features.6", "norm")

    def __init__(self, width: float) -> None:
        """Build the network; ``width`` is a factor on the numbers of channels."""
        super().__init__()
        whole = SwinTransformer3d(
            patch_size=list(PATCH),
            embed_dim=scaled(EMBEDDING, width, multiple=HEADS[0]),
            depths=list(DEPTHS),
            num_heads=list(HEADS),
            window_size=list(WINDOW),
            stochastic_depth_prob=DROP_PATH,
        )
        self.patch_embed, self.features, self.norm = whole.patch_embed, whole.features, whole.norm
        self.width = whole.num_features
        self.projection = nn.Identity()

    def forward_layers(self, pixels: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """See :meth:`featcache.networks.clip_network.ClipNetwork.forward_layers`."""
        steps = ("patch_embed", *(f"features.{place}" for place in range(len(self.features))), "norm")
        maps = run_steps(self, pixels, steps, layers)
        return {layer: tokens.permute(0, 4, 1, 2, 3) for layer, tokens in maps.items()}


def build(width: float = 1.0) -> Swin3d:
    """Build the network; ``width`` is a factor on the numbers of channels."""
    return Swin3d(width)
