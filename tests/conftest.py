import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of labelled clips and weights that tests marked ``shared`` use."""
    root = os.environ.get("FEATCACHE_SHARED")
    if not root:
        pytest.skip("FEATCACHE_SHARED is not set")
    return Path(root)
