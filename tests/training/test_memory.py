"""Freed memory stays with a process that trains on a CPU."""

import subprocess
import sys

import pytest
import torch

from featcache.training.memory import keep_freed_memory

FAULTS = """
import resource, torch
from featcache.training.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(64 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
assert keep_freed_memory(torch.device("cpu"))
for _ in range(4):
    faults()  # the heap grows until it has room for all that goes on at once
print(before, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_a_tensor_that_was_freed_is_not_asked_of_the_system_again() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    before, kept = map(int, done.stdout.split())
    assert before > 4 * 1000, "each of four tensors of 64 MiB touches its pages anew"
    assert kept < before / 10


def test_a_gpu_keeps_its_own() -> None:
    assert not keep_freed_memory(torch.device("cuda"))
