import faulthandler
import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# No test is timed: an example takes longer where other work shares the machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Idle OpenMP threads sleep instead of spinning, which starves every process but one where cores are shared. It counts
# only before the first import of torch, and for the commands that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Tests start some hundreds of interpreters. Where Python keeps no compiled code, as many container images set it, each
# of them compiles torch and all that it imports again, which takes longer than most of what is tested.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell without job control starts what it puts into the background with Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A slow test may take more than `faulthandler_timeout`, whose stack traces can crash an interpreter that runs."""
    if item.get_closest_marker("slow") is not None:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of labelled clips and weights that tests marked ``shared`` use."""
    root = os.environ.get("FEATCACHE_SHARED")
    if not root:
        pytest.skip("FEATCACHE_SHARED is not set")
    return Path(root)
