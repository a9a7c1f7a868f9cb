"""Several seeds trained as one: a stack of modules, each on its own batches, split into the usual folders at the end.

The network and its heads run for all seeds at once (``torch.vmap`` over the stacked weights), so that the overhead of a
step is paid once. The contrastive losses run seed by seed: only the logits of one chunk of one seed are in memory.
"""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from featcache.loaders.set_batches import SeedsBatch, join
from featcache.methods.scale.objective import ScaleObjective, compared
from featcache.training.objective import Loss
from featcache.training.stack import stacked, tag


class StackObjective:
    """The tasks of several seeds as one; the loss is their sum, so each seed gets the same gradient as alone.

    See :class:`featcache.training.objective.Objective`.

    Attributes:
        module: The modules as one, see :func:`stacked`.
        num_batches: Number of batches per epoch, the same for each seed.
        num_items: Number of videos per epoch, over all seeds.
    """

    def __init__(self, objectives: Mapping[int, ScaleObjective]) -> None:
        self._objectives = dict(objectives)
        self._first = next(iter(self._objectives.values()))
        self.module: nn.Module = stacked([each.module for each in self._objectives.values()])
        self.num_batches = self._first.num_batches
        self.num_items = self._first.num_items * len(self._objectives)

    def parts(self, epoch: int, batch: int) -> list[SeedsBatch]:
        """One part with the batches that the seeds would have alone."""
        joined = join([each.draw(epoch, batch) for each in self._objectives.values()])
        return [dataclasses.replace(joined, stack=self._first.ahead(joined.stack))]

    def loss(self, part: SeedsBatch) -> Loss:
        """The sum of the losses over the seeds; the metrics of each seed are called ``seed-N/<name>``."""
        own = self._first.arrived(part.stack)
        assert own.features is not None, "clips are gathered"
        assert own.positions is not None, "positions are gathered"
        inputs = [own.features, own.positions, own.masked, own.masked_at]
        if own.present is not None and own.present_at is not None:
            inputs += [own.present, own.present_at]

        def project(parameters: Mapping[str, Tensor], *inputs: Tensor) -> dict[str, Tensor]:
            projected: dict[str, Tensor] = functional_call(self.module, dict(parameters), inputs)
            return projected

        with sdpa_kernel(SDPBackend.MATH):  # other kernels do not support vmap on every device
            projected = torch.vmap(project, randomness="different")(dict(self.module.named_parameters()), *inputs)
        totals: list[Tensor] = []
        metrics: dict[str, Tensor] = {}
        for place, seed in enumerate(self._objectives):
            mine = {name: vectors[place] for name, vectors in projected.items()}
            settings = self._first.settings
            num_predicted = part.num_present if settings.symmetric else part.num_masked
            for name, count in (("predictions", num_predicted), ("targets", part.num_present)):
                if name in mine:
                    mine[name] = mine[name][: count[place]]
            positive = own.positive[place, : part.num_masked[place]]
            loss = compared(mine, positive, settings, num_videos=own.rows.shape[1] // 2, world=self._first.world)
            totals.append(loss.total)
            named = {"loss": loss.total.detach(), **loss.metrics}
            metrics |= {f"{tag(seed)}{name}": value for name, value in named.items()}
        return Loss(total=torch.stack(totals).sum(), metrics=metrics)

    def after_step(self, progress: float) -> None:
        """Do nothing."""
