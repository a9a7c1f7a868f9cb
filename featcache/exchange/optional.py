"""Imports libraries that only an extra installs."""

from importlib import import_module
from typing import Any

from featcache.errors import FeatcacheError


def optional(module: str, *, extra: str) -> Any:
    """Import a library of an extra when it is needed.

    Raises:
        FeatcacheError: The library is not installed; names the extra.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise FeatcacheError(
            f"{module} is not installed; add it with `pip install 'featcache[{extra}]'` and run the same command again"
        ) from error
