"""SVT: a video transformer trained end to end, without labels, on views of a video that differ in time and space."""
