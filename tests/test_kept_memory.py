"""Freed memory stays with a process that computes on a CPU."""

import os
import subprocess
import sys

import pytest

from featcache.machine import ONE_ARENA, keep_freed_memory

FAULTS = """
import resource, sys, threading, torch
from types import SimpleNamespace
from featcache.extract.filling import encoding
from featcache.machine import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(48 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def compare():
    faults()
    before = faults()
    if sys.argv[2] == "extract":
        matmul = SimpleNamespace(runtime=SimpleNamespace(matmul="highest"))
        with encoding(SimpleNamespace(device="cpu", settings=matmul)):
            pass
    else:
        assert keep_freed_memory("cpu")
    for _ in range(4):
        faults()  # the heap grows until it has room for all that goes on at once
    print(before, faults())

if sys.argv[1] == "thread":
    thread = threading.Thread(target=compare)
    thread.start()
    thread.join()
else:
    compare()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
@pytest.mark.parametrize(
    ("where", "what", "environment"),
    [("main", "train", {}), ("main", "extract", {}), ("thread", "extract", ONE_ARENA)],
)
def test_a_tensor_that_was_freed_is_not_asked_of_the_system_again(
    where: str, what: str, environment: dict[str, str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, where, what],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    before, kept = map(int, done.stdout.split())
    assert before > 4 * 1000, "each of four tensors of 48 MiB touches its pages anew"
    assert kept < before / 10


def test_a_gpu_keeps_its_own() -> None:
    assert not keep_freed_memory("cuda")
