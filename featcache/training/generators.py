"""torch's own generators, seeded by key for a while: initial weights, dropout, drop path."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from featcache.seeding import seed_for


@contextmanager
def seeded_torch(seed: int, *keys: str | int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's generators for the block and leave them as they were.

    Args:
        seed: Of the run.
        keys: What is drawn.
        device: A GPU whose generator is seeded beside the CPU's.
    """
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        number = seed_for(seed, *keys)
        torch.default_generator.manual_seed(number)
        for each in devices:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(number)
        yield
