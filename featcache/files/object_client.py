"""Clients of buckets, one per URL and patience. They take credentials, region and endpoint from the environment."""

import os
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from featcache.errors import BucketError
from featcache.files.object_errors import sentence

if TYPE_CHECKING:
    from obstore.store import ObjectStore

MAX_AT_ONCE = 256
"""Requests of one call at the same time."""
_SETTINGS = ("AWS_", "GOOGLE_", "AZURE_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
"""How the names of environment variables that a client reads begin."""


def client(url: str, num_bytes: int) -> "ObjectStore":
    """The client for a URL whose time for a request suits its size: at least a minute, and a second per MB."""
    seconds = 60 if num_bytes <= 32 << 20 else 1 << (num_bytes >> 19).bit_length()
    settings = tuple(sorted(each for each in os.environ.items() if each[0].upper().startswith(_SETTINGS)))
    return _client_with(url, seconds, settings)


@lru_cache(maxsize=64)
def _client_with(url: str, seconds: int, settings: tuple[tuple[str, str], ...]) -> "ObjectStore":
    """A client, which reads ``settings`` from the environment: with others there has to be another one."""
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise BucketError(f"{url} is in a bucket; run: pip install 'featcache[buckets]'") from error
    try:
        return from_url(
            url,
            client_options={
                "allow_http": True,  # only an endpoint that says http:// is reached without TLS
                "connect_timeout": timedelta(seconds=5),
                "timeout": timedelta(seconds=seconds),
                "pool_max_idle_per_host": str(MAX_AT_ONCE),
            },
            retry_config={"max_retries": 0},  # retried here, where it is known whether a request may have come through
        )
    except Exception as error:
        raise BucketError(
            f"{url} cannot be opened ({sentence(error)}); see docs/buckets.md for the settings"
        ) from error
