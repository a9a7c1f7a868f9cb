"""Decoders behind one protocol, and the worker pool that runs them."""

from featcache.data.decoding import decord, pyav, torchcodec  # noqa: F401  they register themselves
from featcache.data.decoding.base import (
    DecoderInfo,
    VideoReader,
    available,
    decoder_info,
    decoder_names,
    open_video,
)

__all__ = ["DecoderInfo", "VideoReader", "available", "decoder_info", "decoder_names", "open_video"]
