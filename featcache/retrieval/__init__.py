"""Search: the rows or videos of a store that are most like a video or a text."""

from featcache.retrieval.run import Hit, SearchResult, TextQuery, VideoQuery, search

__all__ = ["Hit", "SearchResult", "TextQuery", "VideoQuery", "search"]
