"""Input data: manifests, clip sampling, decoding."""
