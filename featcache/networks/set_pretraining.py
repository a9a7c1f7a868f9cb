"""A set predictor with the heads that project clips and sets into the space where SCALE compares them."""

import itertools
from typing import Literal, Protocol

from torch import Tensor, nn
from torch.nn import functional

from featcache.networks.set_predictor import SetPredictor


class HeadSizes(Protocol):
    """Sizes of the projection heads."""

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
    """Everything that pre-training trains: it maps sets of clips to the vectors that the losses compare.

    A head that no loss uses is not built, since it would count as parameters without being trained.

    Attributes:
        predictor: The set predictor, which is kept after pre-training.
        target_head: Projects stored vectors.
        clip_head: Projects refined clips, to predict the target of a masked clip.
        set_head: Projects summaries.
        set_regressor: Predicts one summary's projection from the other's; only with ``regression`` (SimSiam).
        prototypes: float [P, width]; only with ``clustering`` (SwAV).

    Args:
        predictor: The predictor before training.
        heads: Sizes of the heads.
        predicts: Of which clips predictions are made; ``None``: the loss on masked clips is not used.
        set_loss: How sets are compared; ``None``: not at all.
        num_prototypes: P, for ``clustering``.
    """

    def __init__(
        self,
        predictor: SetPredictor,
        heads: HeadSizes,
        *,
        predicts: Literal["masked clips", "all clips"] | None,
        set_loss: Literal["infonce", "regression", "clustering"] | None,
        num_prototypes: int,
    ) -> None:
        super().__init__()
        width = predictor.settings.width
        self.predictor = predictor
        self._predicts_all = predicts == "all clips"
        self.target_head: ProjectionHead | None = None
        self.clip_head: ProjectionHead | None = None
        self.set_head: ProjectionHead | None = None
        self.set_regressor: ProjectionHead | None = None
        self.prototypes: nn.Linear | None = None
        if predicts is not None:
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
        """Project sets: the first sets of B videos, then the second sets.

        Args:
            features: Floating [2B, K, D], stored vectors of the clips.
            positions: float32 [2B, K, 6 or 7], positions of the clips.
            masked: bool [2B, K], whether a clip is masked.
            masked_at: int64 [M], indices of the masked clips in the flat [2B K].
            present: bool [2B, K], whether a clip is present; ``None``: all are.
            present_at: int64 [N], indices of the present clips in the flat [2B K]; ``None``: all.

        Returns:
            The vectors that the losses need, with C channels and unit length: ``predictions`` [M, C] of masked clips or
            [N, C] of all, ``targets`` [N, C] of stored vectors, ``sets`` [2B, C] of summaries, ``predicted_sets``
            [2B, C] by the regressor; and ``cosines`` float32 [2B, P] of ``sets`` with the prototypes.
        """
        summary, clips = self.predictor(features, positions, masked=masked, present=present)
        projected: dict[str, Tensor] = {}
        if self.clip_head is not None and self.target_head is not None:
            vectors = _picked(features, present_at)
            predicted = _picked(clips, present_at if self._predicts_all else masked_at)
            projected["predictions"] = self.clip_head(predicted)
            projected["targets"] = self.target_head(vectors.to(self.predictor.project.weight.dtype))
        if self.set_head is not None:
            projected["sets"] = self.set_head(summary)
        if self.set_regressor is not None:
            projected["predicted_sets"] = self.set_regressor(projected["sets"])
        if self.prototypes is not None:
            prototypes = functional.normalize(self.prototypes.weight, dim=-1)
            projected["cosines"] = (projected["sets"] @ prototypes.T).float()
        return projected


def _picked(clips: Tensor, at: Tensor | None) -> Tensor:
    """[2B, K, C] to those [N, C] at places int64 [N] of the flat [2B K]; ``None``: all."""
    flat = clips.flatten(0, 1)
    return flat if at is None else flat.index_select(0, at)
