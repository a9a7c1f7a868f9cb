"""What comes in: manifests, clip sampling, decoding."""
