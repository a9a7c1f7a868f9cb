"""Stage 1: from videos to a store."""
