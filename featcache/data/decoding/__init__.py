"""Decoders behind one protocol, and the worker pool that runs them."""

from featcache.data.decoding.base import DECODERS, Decoder, VideoReader, available, open_video

__all__ = ["DECODERS", "Decoder", "VideoReader", "available", "open_video"]
