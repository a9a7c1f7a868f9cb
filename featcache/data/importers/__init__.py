"""Importers: read the official lists of public data sets as manifests; every file here except two registers one."""

from featcache.data.importers import (  # noqa: F401 importing a module registers what it lists
    diving48,
    hmdb51,
    kinetics,
    lvu,
    ssv2,
    ucf101,
)
from featcache.data.importers.base import (
    DatasetEntry,
    Listing,
    dataset_entries,
    find_dataset,
    list_dataset,
    read_listing,
    register_dataset,
)
from featcache.data.importers.files import DatasetFiles

__all__ = [
    "DatasetEntry",
    "DatasetFiles",
    "Listing",
    "dataset_entries",
    "find_dataset",
    "list_dataset",
    "read_listing",
    "register_dataset",
]
