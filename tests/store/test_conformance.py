"""Both formats pass the conformance suite."""

from featcache.testing.stores import StoreConformance


class TestZarr(StoreConformance):
    file_format = "zarr"


class TestHdf5(StoreConformance):
    file_format = "hdf5"
