"""Search for the rows or videos of a store that are most similar to a video or a text."""

from featcache.retrieval.run import Hit, SearchResult, TextQuery, VideoQuery, search

__all__ = ["Hit", "SearchResult", "TextQuery", "VideoQuery", "search"]
