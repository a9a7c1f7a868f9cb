"""Every layer of R(2+1)D at full width stays within its memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cka.py"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_layers_of_r21d_take_less_than_a_gigabyte():
    # One group of clips: further groups take the same memory again.
    command = [sys.executable, str(SCRIPT), "--clips", "11", "--threads", "1", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["layers"], row["clips at once"]) == (69, 10)
    assert row["more memory (GB)"] < 1.0
