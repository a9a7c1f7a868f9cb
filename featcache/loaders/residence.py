"""Where the rows of a training are: on its device, in memory, or on the disk, chosen by size and said."""

import logging
from typing import Literal

import torch

from featcache.loaders.settings import Storage
from featcache.machine import free_memory
from featcache.units import readable_bytes

log = logging.getLogger(__name__)

Residence = Literal["device", "ram", "disk", "mmap"]

FREE_SHARE = 0.5
"""Share of what is free that rows may take."""
_SAID_BYTES = 1e9
"""Rows of fewer bytes are loaded into memory without a word."""


def fits(num_bytes: int, device: torch.device) -> bool:
    """Whether rows take less than half of what a device, or for a CPU this process, has free."""
    return num_bytes < FREE_SHARE * _free_bytes(device)


def chosen(storage: Storage, *, num_bytes: int, device: torch.device, what: str, advice: str = "") -> Residence:
    """The place for rows; ``auto`` is resolved by their size, and the log says to what.

    Args:
        storage: The setting.
        num_bytes: Bytes of all rows in memory.
        device: Device of the training.
        what: What is loaded, for the log.
        advice: What helps if the rows stay on the disk, the end of the sentence.
    """
    if storage != "auto":
        return storage
    size = readable_bytes(num_bytes)
    if device.type == "cuda" and fits(num_bytes, device):
        free = readable_bytes(_free_bytes(device))
        log.info("%s (%s) are loaded onto %s, which has %s free", what, size, device, free)
        return "device"
    if fits(num_bytes, torch.device("cpu")):
        if num_bytes >= _SAID_BYTES:
            log.info("%s (%s) are loaded into memory, of which %s are free", what, size, readable_bytes(free_memory()))
        return "ram"
    free = readable_bytes(free_memory())
    log.info("%s (%s) are read from the disk, since %s of memory are free%s", what, size, free, advice)
    return "disk"


def _free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
