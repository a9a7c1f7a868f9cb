"""The loss of predicted classes against its formula."""

import torch

from featcache.training.objective import class_loss


def test_the_loss_of_classes_is_their_mean_surprise_in_float32():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.bfloat16, requires_grad=True)
    labels = torch.tensor([0, 3, 1, 2, 2, 0])
    found = class_loss(logits, labels)
    plain = -torch.stack([row.float().softmax(0)[label].log() for row, label in zip(logits, labels, strict=True)])
    assert found.total.dtype == torch.float32
    assert torch.allclose(found.total, plain.mean())
    right = [int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True)]
    assert found.metrics["accuracy"].item() == sum(right) / 6
    assert not found.metrics["accuracy"].requires_grad
    halved = class_loss(logits, labels, criterion=lambda logits, labels: logits.mean() / 2)
    assert torch.allclose(halved.total, logits.float().mean() / 2)
