"""Every data set of featcache through the conformance suite."""

from featcache.data.importers import DATASETS
from featcache.plugins import BUILT_IN
from featcache.testing import datasets as suite


class TestBuiltIn(suite.DatasetTests):
    names = tuple(place.name for place in DATASETS.places() if place.origin == BUILT_IN)
