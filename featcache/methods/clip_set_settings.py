"""What a method reads of a store of clips, without torch."""

from typing import Literal

from featcache.config import Settings


class ClipSetSettings(Settings):
    """What is read of a store's clips."""

    store: str
    """A store of layout ``clips`` with vectors."""
    feature: str | None = None
    """Name of the array; null where the store has one of vectors."""
    train_split: str = "train"
    """Split to learn from; a store without splits is used whole."""
    split_column: str | None = None
    """Label column that holds the split; null: the store's own splits."""
    storage: Literal["auto", "device", "ram"] = "auto"
    """Where the rows lie while a method runs; ``auto``: on its device if they take less than half of what is free."""
