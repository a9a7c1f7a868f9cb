"""The plain script with which `extract_command.py` compares: PyAV, timm, and nothing of featcache.

python benchmarks/plain_extract.py VIDEOS WEIGHTS OUT.npz
"""

import sys
from pathlib import Path

import av
import numpy as np
import timm
import torch
from torch.nn.functional import interpolate

CLIPS, FRAMES, STRIDE, SIZE = 4, 8, 4, 224


def main(videos: Path, weights: Path, out: Path) -> None:
    """Write the mean feature of four clips of each video below a folder."""
    network = timm.create_model("tf_efficientnet_lite0", checkpoint_path=str(weights)).eval()
    network = network.to(memory_format=torch.channels_last)
    features = {}
    for path in sorted(path for path in videos.rglob("*") if path.suffix in {".mp4", ".avi"}):
        with av.open(path, metadata_errors="replace") as container:
            container.streams.video[0].thread_type = "AUTO"
            frames = list(container.decode(video=0))
        starts = np.floor(np.linspace(0, max(0, len(frames) - (FRAMES - 1) * STRIDE - 1), CLIPS) + 0.5).astype(int)
        clips = [[pixels(frames[(start + STRIDE * step) % len(frames)]) for step in range(FRAMES)] for start in starts]
        with torch.inference_mode():
            maps = [
                network.forward_features(torch.cat(clip).contiguous(memory_format=torch.channels_last))
                for clip in clips
            ]
        features[path.relative_to(videos).as_posix()] = (
            torch.stack([one.mean((0, 2, 3)) for one in maps]).half().numpy()
        )
    np.savez(out, **features)


def pixels(frame: av.VideoFrame) -> torch.Tensor:
    """The middle of a frame, resized and normalised, float32 [1, 3, S, S]."""
    image = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)[None]
    side = round(0.875 * min(frame.height, frame.width))
    y, x = (frame.height - side) // 2, (frame.width - side) // 2
    image = image[..., y : y + side, x : x + side]
    return (interpolate(image, (SIZE, SIZE), mode="bicubic", antialias=True) / 255 - 0.5) / 0.5


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
