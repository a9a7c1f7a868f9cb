"""Peak memory and passes of the Gram matrices of every layer of a network, from which `evaluate cka` makes its maps.

    uv run python benchmarks/cka.py                          # R(2+1)D, 64 clips of 16 frames of 112 pixels, 1 GB
    uv run python benchmarks/cka.py --memory 4e9 --device cuda
    uv run python benchmarks/cka.py --backbone svt-b --frames 8 --size 224

The process has its network, and the clips of the minibatch; "more memory" is its peak beyond that.
"""

import gc
import time
from pathlib import Path

import torch
from cells import peak_bytes, synchronise
from common import parser, report

from featcache.backbones import build_backbone
from featcache.backbones.trainable import ClipEncoder, clip_feature
from featcache.evaluation.cka import CkaMaps, block_measures, centred
from featcache.evaluation.layer_grams import WatchedNetwork
from featcache.machine import num_cores
from featcache.seeding import rng_for


def main() -> None:
    """Measure one minibatch."""
    options = parser(__doc__)
    options.add_argument("--backbone", default="r21d")
    options.add_argument("--frames", type=int, default=16)
    options.add_argument("--size", type=int, default=112)
    options.add_argument("--clips", type=int, default=64)
    options.add_argument("--memory", type=float, default=1e9, help="bytes that a pass may take")
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int, default=num_cores())
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    shape = (args.frames, 3, args.size, args.size)
    backbone = build_backbone(args.backbone, weights="random")
    recipe = clip_feature(backbone, args.backbone, num_frames=args.frames, input_size=args.size)
    encoder = ClipEncoder(backbone, recipe, num_frames=args.frames, is_frozen=True).placed(args.device)
    clips = torch.from_numpy(rng_for(0, "clips").integers(0, 256, (args.clips, *shape), dtype="uint8"))
    gc.collect()
    before = resident_bytes() if args.device == "cpu" else torch.cuda.memory_allocated()
    started = time.perf_counter()
    seen = WatchedNetwork(
        encoder.features,
        encoder.network,
        clip=shape,
        device=torch.device(args.device),
        kinds="all",
        name=args.backbone,
    )
    groups = seen.passes(args.clips, memory=int(args.memory))
    grams = seen.grams(clips, groups, on_pass=lambda _: None)
    maps = CkaMaps(len(seen.layers), len(seen.layers))
    maps.update(centred(grams), centred(grams))
    synchronise(args.device)
    seconds = time.perf_counter() - started
    measured = block_measures(maps.result(), threshold=0.9, is_self=True)
    row = {
        "network": args.backbone,
        "layers": len(seen.layers),
        "clips": args.clips,
        "clips at once": max(map(len, groups)),
        "passes of each clip": round(sum(map(len, groups)) / args.clips, 1),
        "more memory (GB)": round((peak_bytes(args.device) - before) / 1e9, 3),
        "a clip takes (MB)": round(seen.clip_bytes / 1e6, 1),
        "seconds": round(seconds),
        "mean off the diagonal": round(measured.mean, 3),
    }
    report("Gram matrices of every layer", [row], as_json=args.json)


def resident_bytes() -> int:
    """Resident memory of this process at the moment."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    main()
