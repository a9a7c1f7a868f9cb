import os
from collections.abc import Callable
from pathlib import Path

import pytest

from featcache.data.decoding import available
from featcache.testing.videos import VIDEO_KINDS


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The path of a test video by the name of its kind, encoded once a session."""
    folder = tmp_path_factory.mktemp("videos")
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = VIDEO_KINDS[name].write(folder)
        return made[name]

    return get


@pytest.fixture
def need_decoder() -> Callable[[str], None]:
    """Skip the test if a decoder does not work here; fail it where FEATCACHE_REQUIRE_DECODERS is set."""

    def need(name: str) -> None:
        problem = available(name)
        if problem is not None:
            if os.environ.get("FEATCACHE_REQUIRE_DECODERS"):
                pytest.fail(problem)
            pytest.skip(problem)

    return need
