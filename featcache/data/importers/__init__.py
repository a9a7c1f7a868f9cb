"""Importers: read the official lists of public data sets as manifests."""

from featcache.data.importers.base import DATASETS, DatasetEntry, Listing, list_dataset, make_row, read_listing
from featcache.data.importers.files import DatasetFiles

__all__ = ["DATASETS", "DatasetEntry", "DatasetFiles", "Listing", "list_dataset", "make_row", "read_listing"]
