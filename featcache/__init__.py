"""featcache: extract video features once, then train and probe on the store."""

__version__ = "0.1.0"
