"""Quick checks of an extraction's names and places. Without torch, so that errors are reported at once."""

from importlib.util import find_spec
from pathlib import Path

from featcache.backbones.registry import check_name
from featcache.data.decoding import DECODERS
from featcache.data.importers import DATASETS
from featcache.errors import ConfigError, ManifestError
from featcache.extract.settings import ExtractSettings
from featcache.files.urls import url_of


def check(settings: ExtractSettings) -> None:
    """Check that everything that the settings name exists, before videos are listed and backbones are built.

    Raises:
        ManifestError: There is no such source, or no such folder of a data set.
        UnknownNameError: There is no such data set, decoder or backbone; names the closest.
        PluginError: Several packages offer one of these names, or a backbone is in a file that was not given.
        ConfigError: A cluster is to compute, and Dask is not installed.
    """
    place = settings.source if settings.source is not None else settings.root
    if place is not None and url_of(place) is None and not Path(place).exists():  # a bucket answers when it is listed
        raise ManifestError(f"{place} does not exist; give a folder of videos or a .csv, .jsonl or .parquet listing")
    if settings.dataset is not None:
        DATASETS.find(settings.dataset)
    DECODERS.find(settings.sampling.decoder)
    for feature in settings.features:
        check_name(feature.backbone)
    if settings.cluster.is_used and not find_spec("distributed"):
        raise ConfigError(
            "--scheduler and --workers need Dask, which is not installed here; run `pip install 'featcache[dask]'`"
        )
