"""The libraries and the kind of device that computed a shard; without time and host, to keep records reproducible."""

import platform
from importlib import metadata

import torch

import featcache
from featcache.machine import Matmul

_LIBRARIES = ("torch", "torchvision", "timm", "open-clip-torch", "av", "numpy")


def provenance(device: str, *, matmul: Matmul) -> dict[str, str]:
    """Versions by library name, the processor's architecture or the GPU's name, and how it multiplied float32."""
    kind = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    versions = {name: metadata.version(name) for name in _LIBRARIES}
    return {"featcache": featcache.__version__, "device": kind, "matmul": matmul, **versions}
