"""Settings of the commands that copy and compare stores."""

from typing import ClassVar, Literal

from pydantic import Field

from featcache.config import Settings
from featcache.store.paths import FileFormat


class MergeSettings(Settings):
    """Settings of ``featcache merge``."""

    BUCKET_NAMES: ClassVar = Settings.BUCKET_NAMES | {"out"}

    command: Literal["merge"] = "merge"
    """The command this file repeats."""
    stores: tuple[str, ...] = Field(min_length=1)
    """The store whose generations become one, or several stores that become one."""
    out: str
    """The new store; run the same command again to finish one that was interrupted."""
    features: tuple[str, ...] | None = None
    """Names of the arrays to copy; null: all."""


class ConvertSettings(Settings):
    """Settings of ``featcache convert``."""

    BUCKET_NAMES: ClassVar = Settings.BUCKET_NAMES | {"out"}

    command: Literal["convert"] = "convert"
    """The command this file repeats."""
    store: str
    """The store to copy."""
    to: FileFormat
    """File format of the new store: ``zarr`` or ``hdf5``."""
    out: str
    """The new store; run the same command again to finish one that was interrupted."""
    features: tuple[str, ...] | None = None
    """Names of the arrays to copy; null: all."""


class DiffSettings(Settings):
    """Settings of ``featcache diff``."""

    command: Literal["diff"] = "diff"
    """The command this file repeats."""
    store: str
    """A store."""
    other_store: str
    """The store to compare it with."""
    features: tuple[str, ...] | None = None
    """Names of the arrays whose rows are compared; null: all that both stores have."""
