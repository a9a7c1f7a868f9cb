"""Loaders of training data: clips and sets of clips from a store, and views from videos."""
