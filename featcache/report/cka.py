"""``evaluate cka``: how alike the layers of networks are on the clips of a data set, as a function of its settings."""

import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from featcache.backbones.trainable import check_names
from featcache.config import to_yaml
from featcache.data.selection import TRAIN
from featcache.errors import ManifestError, unknown_name
from featcache.evaluation.cka import SMALLEST_BATCH, BlockMeasures, block_measures
from featcache.evaluation.cka_networks import ReadyNetwork, build_networks, build_untrained
from featcache.evaluation.cka_settings import CkaSettings
from featcache.evaluation.cka_sums import CkaSums, Pair, sum_minibatches
from featcache.evaluation.parts import NAME as PARTS
from featcache.evaluation.parts import Parts
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.loaders.usable import list_videos, open_usable
from featcache.loaders.videos import VideoFiles
from featcache.machine import num_cores, resolve_device, set_matmul
from featcache.report.cka_maps import CkaMap, draw_maps
from featcache.seeding import rng_for
from featcache.stages import OnStage, ignore
from featcache.summary import Summary, SummaryTable, counted
from featcache.training.identity import digest, identity_of
from featcache.training.runs import refuse_company, run_folder
from featcache.units import duration

PICTURE, MAPS = "cka.png", "maps.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class CkaResult:
    """What the layers of networks have in common.

    Attributes:
        folder: Folder with ``cka.png``, ``maps.npz`` and ``result.json``.
        layers: Names of the layers of each network, by its name.
        maps: Measures of each map, by its name.
        untrained: Measures of the same maps of networks with random weights; empty if they are left out.
        num_clips: Number of clips, one per video.
        num_batches: Number of minibatches.
        num_left_out: Number of the chosen videos that could not be decoded.
        passes: Number of forward passes of clips, through networks with random weights too.
        passes_of_a_clip: The same of each clip and network; with more ``memory`` there are fewer.
        seconds: Wall time of this start.
    """

    folder: str
    layers: Mapping[str, tuple[str, ...]]
    maps: Mapping[str, BlockMeasures]
    untrained: Mapping[str, BlockMeasures]
    num_clips: int
    num_batches: int
    num_left_out: int
    passes: int
    passes_of_a_clip: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; ``null`` for a mean that is not defined."""
        return {
            **asdict(self),
            "maps": {name: _json(measures) for name, measures in self.maps.items()},
            "untrained": {name: _json(measures) for name, measures in self.untrained.items()},
        }

    def summary(self) -> Summary:
        """One line per map."""
        listed = [*self.maps.items(), *((f"{name}, untrained", each) for name, each in self.untrained.items())]
        threshold = next(iter(self.maps.values())).threshold
        rows = tuple((name, f"{each.mean:.3f}", f"{100 * each.share_above:.1f}", _block(each)) for name, each in listed)
        table = SummaryTable(
            title=f"CKA of layers, {self.num_clips} clips",
            columns=("map", "mean", f"% above {threshold:g}", "largest block"),
            rows=rows,
        )
        facts: dict[str, object] = {
            "layers": ", ".join(f"{len(layers)} of {name}" for name, layers in self.layers.items()),
            "minibatches": self.num_batches,
            "passes": f"{self.passes:,} of a clip through a network, {self.passes_of_a_clip:.3g} for each",
        }
        if self.num_left_out:
            facts["left out"] = f"{counted(self.num_left_out, 'video')} that cannot be decoded"
        return Summary(
            tables=(table,),
            facts={
                **facts,
                "took": duration(self.seconds),
                "picture": f"{self.folder}/{PICTURE}",
                "run": self.folder,
            },
        )


def _json(measures: BlockMeasures) -> dict[str, Any]:
    values = {name: value if math.isfinite(value) else None for name, value in _numbers(measures).items()}
    block = measures.largest
    return {**values, "largest": None if block is None else {**asdict(block), "num_layers": block.num_layers}}


def _numbers(measures: BlockMeasures) -> dict[str, float]:
    return {"mean": measures.mean, "share_above": measures.share_above, "threshold": measures.threshold}


def _block(measures: BlockMeasures) -> str:
    block = measures.largest
    return "" if block is None else f"{block.num_layers} ({block.first + 1} to {block.last + 1})"


def evaluate_cka(settings: CkaSettings, *, on_stage: OnStage = ignore) -> CkaResult:
    """Compare the layers of networks with each other, draw maps of CKA, and measure them.

    After each network of each minibatch its Gram matrices are kept, so that a killed run goes on there.

    Args:
        settings: Networks, videos and layers.
        on_stage: Called with the stage ``scan``, and with ``pass``: clips that were passed through a network, counted
            each time.

    Raises:
        ConfigError: A backbone cannot take such clips, or its layers cannot be seen, or two clips take more memory.
        ManifestError: There are too few videos.
        UnknownNameError: There is no such backbone or split.
        VideoError: A video is missing or has changed since it was scanned.
        WeightsError: Weights cannot be found or do not fit.
    """
    started = time.monotonic()
    refuse_company("layers are compared in one")
    for each in settings.networks:
        check_names(each.backbone, each.weights)
    device = torch.device(resolve_device(settings.device))
    set_matmul("highest")
    folder = run_folder(settings, out=settings.out, store=settings.videos_name, name="cka")
    files = _chosen(settings, on_stage=on_stage)
    networks = build_networks(settings, device=device)
    untrained = build_untrained(networks, settings, device=device) if settings.untrained else []
    distinct = list(dict.fromkeys((*networks, *untrained)))
    trained_pairs, random_pairs = (_pairs([distinct.index(each) for each in group]) for group in (networks, untrained))
    shown = digest([[str(each.recipe), str(each.clip)] for each in distinct])
    identity = identity_of(settings, inputs={"videos": files.content, "networks": shown}, seed=settings.seed)
    put_replace(folder / "config.yaml", to_yaml(settings).encode())
    parts = Parts(folder=folder / PARTS, identity=identity)
    sums = sum_minibatches(
        distinct,
        list(dict.fromkeys((*trained_pairs, *random_pairs))),
        files,
        batch_size=settings.batch_size,
        memory=settings.memory,
        workers=num_cores() if settings.workers is None else settings.workers,
        parts=parts,
        on_stage=on_stage,
    )
    named = [_map(distinct, pair, sums, settings, is_self=pair[0] == pair[1]) for pair in trained_pairs]
    twins = [
        None if twin in trained_pairs else _map(distinct, twin, sums, settings, is_self=pair[0] == pair[1])
        for pair, twin in zip(trained_pairs, random_pairs or trained_pairs, strict=True)
    ]
    result = CkaResult(
        folder=str(folder),
        layers={network.name: network.layers for network in networks},
        maps={each.title: each.measures for each in named},
        untrained={each.title: twin.measures for each, twin in zip(named, twins, strict=True) if twin is not None},
        num_clips=sums.num_clips,
        num_batches=sums.num_batches,
        num_left_out=sums.num_left_out,
        passes=sums.num_passes,
        passes_of_a_clip=sums.num_passes / (sums.num_clips * len(distinct)),
        seconds=time.monotonic() - started,
    )
    arrays = {each.title: each.values for each in (*named, *twins) if each is not None}
    layers = {f"layers of {network.name}": np.array(network.layers) for network in distinct}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays, **layers)  # type: ignore[arg-type]
    put_replace(folder / MAPS, buffer.getvalue())
    put_replace(folder / PICTURE, draw_maps(list(zip(named, twins, strict=True))))
    put_replace(folder / "result.json", canonical_json(result.to_dict()))
    parts.remove()
    return result


def _pairs(numbers: Sequence[int]) -> list[Pair]:
    """Each network with itself, and the first with the second."""
    return [*((number, number) for number in numbers), *([(numbers[0], numbers[1])] if len(numbers) == 2 else [])]


def _map(
    networks: Sequence[ReadyNetwork], pair: Pair, sums: CkaSums, settings: CkaSettings, *, is_self: bool
) -> CkaMap:
    """One map; ``is_self`` says how it is measured, and is that of the trained map which it stands beside."""
    first, second = (networks[number] for number in pair)
    values = sums.maps[pair].result()
    return CkaMap(
        title=first.name if pair[0] == pair[1] else f"{first.name} and {second.name}",
        values=values,
        rows=first.layers,
        columns=second.layers,
        measures=block_measures(values, threshold=settings.threshold, is_self=is_self),
    )


def _chosen(settings: CkaSettings, *, on_stage: OnStage) -> VideoFiles:
    """The videos, in a random order, so that a minibatch is not of one class.

    Raises:
        ManifestError: There are fewer than four.
        UnknownNameError: There is no such split.
    """
    manifest = list_videos(settings, on_stage=on_stage)
    splits = {video.split for video in manifest.videos} - {""}
    if settings.split is not None and settings.split not in splits:
        raise unknown_name("split", settings.split, splits)
    wanted = {settings.split} if settings.split is not None else splits - {TRAIN} or splits | {""}
    videos = [video for video in manifest.videos if video.split in wanted]
    files = open_usable(videos, root=manifest.root, decoder=settings.decoder).files
    if (number := len(files.videos)) < SMALLEST_BATCH:
        raise ManifestError(
            f"{number} videos of {settings.source or settings.dataset} can be used, and CKA needs {SMALLEST_BATCH} at "
            "least; give more, or another --split"
        )
    order = rng_for(settings.seed, "cka", "videos").permutation(number)
    return files.take(order[: settings.num_clips].tolist())
