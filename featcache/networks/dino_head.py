"""DINO's projection head with its prototypes (Caron et al., ICCV 2021, §3 and App. C), as SVT trains it.

Parameters have the names of SVT's checkpoint under ``head.``, but ``last_layer.weight_g``, which is frozen at 1 there,
is left out.

Differs from SVT: the logits are computed in float32 even under autocast. They are divided by a temperature of 0.04,
which would also enlarge the rounding errors of a lower precision.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Prototypes(nn.Module):
    """Cosines with prototypes: a weight-normalised linear layer without a bias whose gains are all 1.

    Args:
        width: Width of vectors and prototypes.
        num_prototypes: Number of prototypes and logits.
    """

    def __init__(self, width: int, *, num_prototypes: int) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(torch.empty(num_prototypes, width))
        nn.init.uniform_(self.weight_v, -(width**-0.5), width**-0.5)  # initialised as nn.Linear, like DINO's

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors of unit length, float32 [..., width], to cosines, float32 [..., num_prototypes]."""
        return functional.linear(vectors, functional.normalize(self.weight_v, dim=-1))


class DinoHead(nn.Module):
    """Three linear layers with GELU between them, normalisation to unit length, prototypes.

    Args:
        width_in: Width of the features.
        hidden: Width of the two hidden layers.
        bottleneck: Width of the prototypes.
        num_prototypes: Number of prototypes of the last layer.

    Attributes:
        mlp: The linear layers.
        last_layer: The prototypes.
    """

    def __init__(
        self, width_in: int, *, hidden: int = 2048, bottleneck: int = 256, num_prototypes: int = 65_536
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width_in, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = Prototypes(bottleneck, num_prototypes=num_prototypes)

    def forward(self, features: Tensor) -> Tensor:
        """Map features, floating [..., width_in], to logits in [-1, 1], float32 [..., num_prototypes]."""
        vectors: Tensor = self.mlp(features)
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.last_layer(functional.normalize(vectors.float(), dim=-1))
        return logits
