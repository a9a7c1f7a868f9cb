"""Stage 1, extraction: from videos to a store."""
