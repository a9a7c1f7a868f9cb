"""Decoders behind one protocol, and the worker pool that contains them."""
