"""Seeds by key: every random draw is a function of the run seed and of its purpose, never of a global generator."""

import hashlib

import numpy as np


def seed_for(seed: int, *keys: str | int) -> int:
    """Derive a 63-bit seed from ``seed`` and the keys that name the draw.

    Args:
        seed: The run's seed.
        keys: Purpose of the draw, e.g. ``("box", video_id, clip_index)``. Each key is length-prefixed, so
            ``("ab", "c")`` and ``("a", "bc")`` differ.
    """
    digest = hashlib.blake2b(digest_size=8)
    for key in (seed, *keys):
        encoded = f"{type(key).__name__}:{key}".encode("utf-8", "surrogateescape")
        digest.update(len(encoded).to_bytes(4, "little") + encoded)
    return int.from_bytes(digest.digest(), "little") >> 1


def rng_for(seed: int, *keys: str | int) -> np.random.Generator:
    """A NumPy generator seeded with :func:`seed_for`."""
    return np.random.default_rng(seed_for(seed, *keys))
