"""Which libraries and which kind of device computed a shard; no clock and no host, so that records are reproducible."""

import platform
from importlib import metadata

import torch

import featcache

_LIBRARIES = ("torch", "torchvision", "timm", "open-clip-torch", "av", "numpy")


def provenance(device: str) -> dict[str, str]:
    """Versions by library name, the processor's architecture and the device's kind."""
    kind = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return {"featcache": featcache.__version__, "device": kind, **{name: metadata.version(name) for name in _LIBRARIES}}
