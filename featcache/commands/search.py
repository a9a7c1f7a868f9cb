"""``search``: find clips and videos of a store by a video or a text, and draw them."""

import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from featcache.config import Settings
from featcache.errors import ConfigError
from featcache.stages import OnStage, ignore

if TYPE_CHECKING:
    from featcache.retrieval import SearchResult


class SearchSettings(Settings):
    """Settings of ``featcache search``."""

    command: Literal["search"] = "search"
    """The command this file repeats."""
    store: str
    """The store."""
    video: str | None = None
    """Video file to search for."""
    text: str | None = None
    """Text to search for; only for stores of CLIP's layer ``proj``."""
    feature: str | None = None
    """Name of the array; null: the only one of the store."""
    by: Literal["clip", "video"] = "clip"
    """``clip``: compare single rows. ``video``: compare the mean of each video's rows."""
    k: int = Field(default=10, ge=1)
    """Number of hits."""
    engine: Literal["exact", "faiss"] = "exact"
    """``exact`` (torch, block by block) or ``faiss`` (flat index, all in memory)."""
    exclude_self: bool = False
    """Leave out videos whose file has the same bytes as the query's."""
    label: str = "label"
    """Label column to show."""
    sheet: str | None = None
    """Picture of the hits to draw; PNG or JPEG by its suffix."""
    videos: str | None = None
    """Folder of the videos for the picture; null: where they were extracted from."""
    weights: str | None = None
    """Weights of the feature's backbone, if their file has moved since the extraction."""
    device: str = "auto"
    """Device on which the query is encoded."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        if self.video is None and self.text is None:
            raise ConfigError("nothing says what to search for; give --video FILE or --text WORDS")
        if self.video is not None and self.text is not None:
            raise ConfigError("give either --video FILE or --text WORDS, not both")
        if self.text is not None and not self.text.strip():
            raise ConfigError("--text is empty; give some words")
        if self.text is not None and self.exclude_self:
            raise ConfigError("--exclude-self leaves out the query's own file, and a text has none; drop it")
        if self.sheet is not None and Path(self.sheet).suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise ConfigError(f"sheet is {self.sheet!r}; give the picture a name that ends in .png or .jpg")


def search(settings: SearchSettings, *, on_stage: OnStage = ignore) -> "SearchResult":
    """Search, and draw the hits if ``settings.sheet`` is given.

    Args:
        settings: Query and store.
        on_stage: Never called: a search takes seconds.
    """
    from featcache.store.reader import open_store

    store = open_store(settings.store)  # before anything heavy: a missing store is reported at once

    from featcache.files.publish import put_replace
    from featcache.retrieval import TextQuery, VideoQuery
    from featcache.retrieval import search as find
    from featcache.retrieval.sheet import contact_sheet

    weights = None
    if settings.weights is not None:
        names = [settings.feature] if settings.feature in store.features else list(store.features)
        weights = {store.features[name][0].backbone: settings.weights for name in names if name is not None}
    result = find(
        store,
        VideoQuery(settings.video) if settings.video is not None else TextQuery(settings.text or ""),
        feature=settings.feature,
        by=settings.by,
        k=settings.k,
        engine=settings.engine,
        exclude_self=settings.exclude_self,
        label=settings.label,
        weights=weights,
        device=settings.device,
    )
    if settings.sheet is None:
        return result
    target, buffer = Path(settings.sheet), io.BytesIO()
    contact_sheet(result, videos=settings.videos).save(buffer, "PNG" if target.suffix.lower() == ".png" else "JPEG")
    put_replace(target, buffer.getvalue())
    return dataclasses.replace(result, sheet=settings.sheet)
