"""Decoders behind one protocol, and the worker pool that contains them."""

from featcache.data.decoding import pyav as _pyav  # noqa: F401  registers itself
from featcache.data.decoding.base import (
    DecoderInfo,
    VideoReader,
    available,
    decoder_info,
    decoder_names,
    open_video,
)

__all__ = ["DecoderInfo", "VideoReader", "available", "decoder_info", "decoder_names", "open_video"]
