"""docs/adding-a-method.md, followed to the letter."""

import sys

import pytest

from featcache.testing.pretext import CHECKS, PretextTests
from tests.docs import pages

PAGE = "adding-a-method.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = pages.install(PAGE, tmp_path_factory.mktemp("task"))
    sys.path.insert(0, str(site))
    yield site
    sys.path.remove(str(site))
    del sys.modules["labtasks"]


def test_it_is_short():
    assert len(pages.files_of(PAGE)["labtasks.py"].splitlines()) <= 60


def test_the_suite_of_the_page_passes(site):
    source: dict[str, type[PretextTests]] = {}
    exec(pages.files_of(PAGE)["test_labtasks.py"], source)  # type: ignore[arg-type]
    suite = source["TestMine"]()
    for check in CHECKS:
        suite.test_conforms("arrow", check)
