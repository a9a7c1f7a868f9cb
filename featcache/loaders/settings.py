"""Settings of what a method reads, and of what it is watched with, without torch."""

from typing import Literal

from pydantic import Field

from featcache.config import Aside, Input, Settings
from featcache.data.selection import DecodedVideosSettings, MaxDamaged

Coordinates = Literal["true", "shuffled", "zero"]
Storage = Literal["auto", "device", "ram", "disk", "mmap"]


class BankSettings(Settings):
    """The part of a store's frame bank that a method reads."""

    store: Input[str]
    """A store of layout ``frames`` with maps; with ``online`` also a file of ``featcache extract``, of which nothing is
    stored."""
    feature: Aside[str | None] = None
    """Name of the array, or several joined by ``+``, whose channels are joined when they are read; null: the only array
    of the store that holds maps."""
    grid: int | None = Field(default=None, ge=1)
    """Side of the map after average pooling during reading (SFU); null: as stored."""
    channels: int | None = Field(default=None, ge=1)
    """Number of channels after average pooling of neighbours during reading (SFU); null: as stored."""
    storage: Aside[Storage] = "auto"
    """Place from which rows are read: ``device`` and ``ram`` load them first, ``disk`` reads many at the same time, and
    ``mmap`` leaves reading to the system. ``auto``: the first of a GPU, memory and the disk in which they take less
    than half of what is free."""
    shuffle: Literal["full", "block"] = "full"
    """Order of the videos in an epoch. ``block``: groups of videos that are stored together in random order, mixed
    within 256 MB, so that a disk is read nearly in order; for stores of small videos that no memory holds."""
    online: bool = False
    """Decode and encode every clip with a new crop and new colours instead of reading rows; slow."""
    workers: Aside[int | None] = Field(default=None, ge=0)
    """``online``: number of decoding processes, 0 to decode in the training process; null: 1 on CPU, half of the cores
    with a GPU."""
    videos: Aside[str | None] = None
    """``online``: folder of the videos; null: the folder from which they were extracted."""
    weights: Aside[str | None] = None
    """``online``: weights of the backbone, if those that the store was made with have moved."""
    max_damaged: MaxDamaged = 0.05
    """``online``: share of the training videos that may turn out not to decode, for each of which another video is
    taken."""
    train_split: Aside[str] = "train"
    """Split to train on; a store without splits is used as a whole."""
    split_column: Aside[str | None] = None
    """Label column that holds the split; null: the store's own splits."""


class ClipSetSettings(Settings):
    """The part of a store's clips that a method reads."""

    store: Input[str]
    """A store of layout ``clips`` with vectors."""
    feature: Aside[str | None] = None
    """Name of the array; null: the only array of the store that holds vectors."""
    train_split: Aside[str] = "train"
    """Split to train on; a store without splits is used as a whole."""
    split_column: Aside[str | None] = None
    """Label column that holds the split; null: the store's own splits."""
    storage: Aside[Literal["auto", "device", "ram"]] = "auto"
    """Place of the rows during training; ``auto``: the device if they take less than half of its free memory."""


class LabelledSettings(DecodedVideosSettings):
    """Where labelled videos come from, and how they are sorted."""

    label: Aside[str] = "label"
    """Label column."""
    train_split: Aside[str] = "train"
    """Split to train on."""
    test_splits: Aside[tuple[str, ...] | None] = None
    """Splits to score; null: all others."""


class MonitorSettings(Settings):
    """Accuracy of nearest neighbours among a few labelled videos, while a method trains without labels."""

    knn_epochs: int = Field(default=0, ge=0)
    """Number of epochs after which it is measured, and again at the end; 0: never."""
    videos: int = Field(default=1000, ge=1)
    """Number of training videos that vote, and of videos that are classified, each balanced over the classes; fewer
    if there are not as many."""
    label: str = "label"
    """Label column."""
    split: str | None = None
    """Split whose videos are classified; null: all but that to train on. Without splits, half of the training videos
    are classified by the other half."""
