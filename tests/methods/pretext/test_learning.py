"""Every task is one that a thin network can learn: a single batch, by heart."""

import pytest
import torch

from featcache.methods.pretext.task import TASKS
from featcache.testing import pretext as suite
from tests.methods.pretext.tasks import SMALL

MEASURE = {"rspnet": "ranking_loss", "prp": "class_loss"}
"""The metric to watch in place of the loss: keys of the batch itself come into the queue of RSPNet as negatives."""


def step(task, module, optimiser, batch):
    """One step; the loss and the metrics before it."""
    loss = task.loss(module, *batch)
    optimiser.zero_grad()
    loss.total.backward()
    optimiser.step()
    if task.follows is not None:
        module.follow(0.9)
    return {"loss": float(loss.total.detach()), **{name: float(value) for name, value in loss.metrics.items()}}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_batch_is_learnt_by_heart(name):
    task = TASKS.load(name)(**(SMALL[name] | ({"queue": 500} if name == "tdl" else {})))
    module, batch = suite.module_of(task), suite.batch_of(task, size=8)
    trained = [each for each in module.parameters() if each.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.02, momentum=0.9)
    told = [step(task, module, optimiser, batch) for _ in range(30)]
    if name == "videomae":  # noise is predicted by its mean at best, whose error is 1
        assert told[0]["loss"] > 1.1
        assert told[-1]["loss"] < 1.02
    elif name == "tdl":  # the key of the same step is found among the queue and the negative
        assert told[-1]["accuracy"] == 1.0 > told[0]["accuracy"]
    else:
        watched = MEASURE.get(name, "loss")
        assert told[-1][watched] < 0.5 * told[0][watched]
        assert told[-1]["accuracy"] == 1.0
