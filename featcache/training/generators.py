"""Seeds torch's own generators by key for a block of code: initial weights, dropout, drop path."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from featcache.seeding import seed_for


@contextmanager
def seeded_torch(seed: int, *keys: str | int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's generators for a ``with`` block and restore them afterwards.

    Args:
        seed: Seed of the run.
        keys: Purpose of the draws.
        device: A GPU whose generator is seeded too, besides the CPU's.
    """
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        number = seed_for(seed, *keys)
        torch.default_generator.manual_seed(number)
        for each in devices:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(number)
        yield


def repeated_draws(device: torch.device) -> Callable[[], None]:
    """A function after each call of which torch draws what it would draw now, on the CPU and on ``device``."""
    state = torch.get_rng_state()
    own = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def again() -> None:
        torch.set_rng_state(state)
        if own is not None:
            torch.cuda.set_rng_state(own, device)

    return again
