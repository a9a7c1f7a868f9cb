"""SCALE: a transformer over sets of clip vectors with coordinates, pre-trained without labels."""
