"""What a method reads of a store of clips, without torch."""

from typing import Literal

from featcache.config import Aside, Input, Settings


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
