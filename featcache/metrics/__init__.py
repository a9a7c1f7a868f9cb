"""Metrics of scored videos: splits, accuracies, and bootstrap intervals."""
