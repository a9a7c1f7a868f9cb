"""A frame bank in memory whose maps tell the frame they come from."""

from dataclasses import dataclass

import numpy as np
import torch

from featcache.loaders.maps import ClipMaps


@dataclass
class MemoryBank:
    """A :class:`featcache.loaders.bank.ClipSource` over an array [V, L, crops, h, w, C]."""

    values: torch.Tensor
    bank_stride: int = 1

    def __post_init__(self):
        self.video_ids = tuple(f"v{number:03d}" for number in range(len(self.values)))
        self.num_source_frames = np.full(len(self.values), self.values.shape[1] * self.bank_stride)
        self.shape = tuple(self.values.shape[3:])
        self.identity = "memory"
        self.files = None

    def clips(self, videos, positions, crops):
        crops = np.asarray(crops)[:, None] % self.values.shape[2]
        rows = torch.from_numpy(videos)[:, None], torch.from_numpy(positions), torch.from_numpy(crops)
        return ClipMaps.of(self.values[rows])

    def ahead(self, videos, positions, crops):
        self.clips(videos, positions, crops)

    def order(self, videos):
        return None

    def num_crops(self, video):
        return self.values.shape[2]


def counting_bank(num_videos=6, num_frames=40, crops=1):
    """Maps [1, 1, 3] that hold video, frame and crop."""
    video, frame, crop = np.meshgrid(np.arange(num_videos), np.arange(num_frames), np.arange(crops), indexing="ij")
    values = np.stack([video, frame, crop], axis=-1)[:, :, :, None, None]
    return MemoryBank(torch.from_numpy(values.astype(np.float32)))


def moving_bank(num_videos=32, num_frames=64, channels=6):
    """Maps [2, 2, C] that drift at a constant speed, so that the playback rate can be told from differences."""
    generator = torch.Generator().manual_seed(0)
    frequency = torch.full((num_videos, 1, channels), 0.1)
    phase = torch.rand(num_videos, 1, channels, generator=generator) * 6.28
    time = torch.arange(num_frames)[None, :, None]
    signal = torch.sin(frequency * time + phase)
    return MemoryBank(signal[:, :, None, None, None, :].expand(-1, -1, 1, 2, 2, -1).contiguous())
