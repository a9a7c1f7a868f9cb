"""Both formats pass the conformance suite."""

from featcache.testing.store_suite import StoreConformance


class TestZarr(StoreConformance):
    file_format = "zarr"


class TestHdf5(StoreConformance):
    file_format = "hdf5"
