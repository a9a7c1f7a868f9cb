"""Which rows of a store a method reads, without torch."""

from typing import Literal

from pydantic import Field

from featcache.config import Aside, Input, Settings

Coordinates = Literal["true", "shuffled", "zero"]


class BankSettings(Settings):
    """What is read of a store's frame bank."""

    store: Input[str]
    """A store of layout ``frames`` with maps."""
    feature: Aside[str | None] = None
    """Name of the array; null where the store has one map."""
    grid: int | None = Field(default=None, ge=1)
    """Spatial side after average pooling at read (SFU); null: as stored."""
    channels: int | None = Field(default=None, ge=1)
    """Channels after average pooling of neighbours at read (SFU); null: as stored."""
    storage: Aside[Literal["auto", "mmap", "ram"]] = "auto"
    """Where rows are read from; ``auto``: memory if they take less than half of what is free."""
    online: bool = False
    """Decode and encode every clip anew, each under a fresh crop and colours, instead of reading rows; slow."""
    videos: Aside[str | None] = None
    """``online``: folder of the videos; null: where they were extracted from."""
    weights: Aside[str | None] = None
    """``online``: weights of the backbone, where those that the store was made with have moved."""
    train_split: Aside[str] = "train"
    """Split to learn from; a store without splits is used whole."""
    split_column: Aside[str | None] = None
    """Label column that holds the split; null: the store's own splits."""


class ClipSetSettings(Settings):
    """What is read of a store's clips."""

    store: Input[str]
    """A store of layout ``clips`` with vectors."""
    feature: Aside[str | None] = None
    """Name of the array; null where the store has one of vectors."""
    train_split: Aside[str] = "train"
    """Split to learn from; a store without splits is used whole."""
    split_column: Aside[str | None] = None
    """Label column that holds the split; null: the store's own splits."""
    storage: Aside[Literal["auto", "device", "ram"]] = "auto"
    """Where the rows lie while a method runs; ``auto``: on its device if they take less than half of what is free."""
