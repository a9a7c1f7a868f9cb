"""An NVIDIA GPU against the CPU: the checks of `benchmarks/gpu.py`."""

import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))
try:
    from gpu_parts.bench import SkippedError
    from gpu_parts.checks import CHECKS
finally:
    sys.path.remove(str(FOLDER))

pytestmark = pytest.mark.gpu


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("name", CHECKS)
def test_the_gpu_agrees_with_the_cpu(name, tmp_path):
    try:
        CHECKS[name]("cuda", tmp_path)
    except SkippedError as reason:
        pytest.skip(str(reason))
