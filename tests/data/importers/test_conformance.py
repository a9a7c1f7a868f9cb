"""Every registered data set through the conformance suite; the suite against importers that are wrong."""

import pytest

from featcache.data.importers import dataset_entries
from featcache.testing import datasets as suite


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in suite.SAMPLES.items()}


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", [entry.name for entry in dataset_entries()])
def test_conforms(name, check, samples):
    check(samples[name])
