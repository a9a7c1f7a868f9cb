"""A set predictor with the heads that project clips and sets into the space where SCALE compares them."""

import itertools
from typing import Literal, Protocol

from torch import Tensor, nn
from torch.nn import functional

from featcache.networks.set_predictor import SetPredictor


class HeadSizes(Protocol):
    """Sizes of the heads."""

    @property
    def width(self) -> int:
        """Width of the space in which clips and sets are compared."""

    @property
    def target_hidden(self) -> int:
        """Hidden width of the target head."""

    @property
    def target_layers(self) -> int:
        """Layers of the target head."""

    @property
    def hidden(self) -> int:
        """Hidden width of the other heads."""

    @property
    def layers(self) -> int:
        """Layers of the other heads."""


class ProjectionHead(nn.Module):
    """Linear layers without biases, GELU between them, output of unit length; no BatchNorm (released code)."""

    def __init__(self, width_in: int, *, hidden: int, width_out: int, num_layers: int) -> None:
        super().__init__()
        widths = [width_in, *[hidden] * (num_layers - 1), width_out]
        self.layers = nn.ModuleList(
            nn.Linear(before, after, bias=False) for before, after in itertools.pairwise(widths)
        )

    def forward(self, vectors: Tensor) -> Tensor:
        """Floating [..., width_in] to float32 [..., width_out] of unit length."""
        for number, layer in enumerate(self.layers):
            vectors = layer(functional.gelu(vectors) if number else vectors)
        return functional.normalize(vectors.float(), dim=-1)


class ScalePretraining(nn.Module):
    """Everything that pre-training trains: from sets of clips to the vectors that the losses compare.

    A head that its loss does not use is not made: it would be counted, and never trained.

    Attributes:
        predictor: The set predictor, which is kept.
        target_head: From stored vectors.
        clip_head: From refined clips, to predict the target of a masked one.
        set_head: From summaries.
        set_regressor: From one summary's projection to the other's; with ``regression`` (SimSiam).
        prototypes: float [P, width]; with ``clustering`` (SwAV).

    Args:
        predictor: The predictor as it begins.
        heads: Sizes of the heads.
        compares_clips: Whether masked clips are told apart.
        set_loss: How sets are compared; ``None``: not at all.
        num_prototypes: P, with ``clustering``.
    """

    def __init__(
        self,
        predictor: SetPredictor,
        heads: HeadSizes,
        *,
        compares_clips: bool,
        set_loss: Literal["infonce", "regression", "clustering"] | None,
        num_prototypes: int,
    ) -> None:
        super().__init__()
        width = predictor.settings.width
        self.predictor = predictor
        self.target_head: ProjectionHead | None = None
        self.clip_head: ProjectionHead | None = None
        self.set_head: ProjectionHead | None = None
        self.set_regressor: ProjectionHead | None = None
        self.prototypes: nn.Linear | None = None
        if compares_clips:
            self.target_head = ProjectionHead(
                predictor.width_in, hidden=heads.target_hidden, width_out=heads.width, num_layers=heads.target_layers
            )
            self.clip_head = ProjectionHead(width, hidden=heads.hidden, width_out=heads.width, num_layers=heads.layers)
        if set_loss is not None:
            self.set_head = ProjectionHead(width, hidden=heads.hidden, width_out=heads.width, num_layers=heads.layers)
            if set_loss == "regression":
                self.set_regressor = ProjectionHead(
                    heads.width, hidden=heads.hidden, width_out=heads.width, num_layers=2
                )
            if set_loss == "clustering":
                self.prototypes = nn.Linear(heads.width, num_prototypes, bias=False)

    def forward(
        self,
        features: Tensor,
        positions: Tensor,
        masked: Tensor,
        masked_at: Tensor,
        present: Tensor | None = None,
        present_at: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Project sets: the first of B videos, then the second ones.

        Args:
            features: Floating [2B, K, D].
            positions: float32 [2B, K, 6 or 7].
            masked: bool [2B, K].
            masked_at: int64 [M], the masked clips, in the flat [2B K].
            present: bool [2B, K]; ``None``: all clips are there.
            present_at: int64 [N], the clips that are there, in the flat [2B K]; ``None``: all.

        Returns:
            Vectors of C channels and unit length, those that the losses need: ``predictions`` [M, C] of masked clips,
            ``targets`` [N, C] of stored vectors, ``sets`` [2B, C] of summaries, ``predicted_sets`` [2B, C] by the
            regressor; and ``cosines`` float32 [2B, P] of ``sets`` with the prototypes.
        """
        summary, clips = self.predictor(features, positions, masked=masked, present=present)
        projected: dict[str, Tensor] = {}
        if self.clip_head is not None and self.target_head is not None:
            vectors = features.flatten(0, 1)
            if present_at is not None:
                vectors = vectors.index_select(0, present_at)
            projected["predictions"] = self.clip_head(clips.flatten(0, 1).index_select(0, masked_at))
            projected["targets"] = self.target_head(vectors.to(self.predictor.project.weight.dtype))
        if self.set_head is not None:
            projected["sets"] = self.set_head(summary)
        if self.set_regressor is not None:
            projected["predicted_sets"] = self.set_regressor(projected["sets"])
        if self.prototypes is not None:
            prototypes = functional.normalize(self.prototypes.weight, dim=-1)
            projected["cosines"] = (projected["sets"] @ prototypes.T).float()
        return projected
