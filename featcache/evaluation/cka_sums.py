"""HSIC between the layers of networks, summed over the minibatches of some videos, so that a killed run goes on."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from featcache.errors import ManifestError
from featcache.evaluation.cka import SMALLEST_BATCH, CkaMaps, centred
from featcache.evaluation.cka_networks import ReadyNetwork
from featcache.evaluation.parts import Parts
from featcache.loaders.ahead import Batch, ViewLoader
from featcache.loaders.recipe_rows import SeveralRecipes
from featcache.loaders.videos import VideoFiles
from featcache.stages import OnStage

_SUMS, _GRAMS = "sums", "grams"
Pair = tuple[int, int]
"""Two networks whose layers are compared, by number; the same twice for a map of a network with itself."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CkaSums:
    """What all minibatches have given.

    Attributes:
        maps: Sums of each pair of networks.
        num_clips: Number of clips.
        num_left_out: Number of videos that could not be decoded, or were nearly alone in their minibatch then.
        num_passes: Number of forward passes of clips, through all networks together.
    """

    maps: Mapping[Pair, CkaMaps]
    num_clips: int
    num_left_out: int
    num_passes: int

    @property
    def num_batches(self) -> int:
        """Number of minibatches."""
        return next(iter(self.maps.values())).num_batches


def minibatches(num_clips: int, *, batch_size: int) -> list[Batch]:
    """Minibatches of nearly the same size, in order, none of fewer than 4 clips.

    Args:
        num_clips: Number of clips, at least 4.
        batch_size: Most clips of a minibatch, unless one of fewer than 4 would be left.
    """
    number = min(-(-num_clips // batch_size), num_clips // SMALLEST_BATCH)
    bounds = [num_clips * place // number for place in range(number + 1)]
    return [Batch(0, tuple(range(first, last))) for first, last in itertools.pairwise(bounds)]


def sum_minibatches(
    networks: Sequence[ReadyNetwork],
    pairs: Sequence[Pair],
    files: VideoFiles,
    *,
    batch_size: int,
    memory: int,
    workers: int,
    parts: Parts,
    on_stage: OnStage,
) -> CkaSums:
    """Pass every clip through every network, and sum HSIC of each pair of layers.

    Args:
        networks: The networks.
        pairs: Which of them are compared.
        files: Their videos, in the order of the minibatches.
        batch_size: Most clips of a minibatch.
        memory: Bytes that a pass may take; see :meth:`featcache.evaluation.layer_grams.WatchedNetwork.passes`.
        workers: Number of decoding processes; 0: this process.
        parts: Where sums are kept after each minibatch, and Gram matrices after each network of one.
        on_stage: Called with the stage ``pass``, clips that have passed a network so far, each time counted, and in
            total.

    Raises:
        ConfigError: Two clips take more than that memory.
        ManifestError: Too few videos can be decoded.
        VideoError: A video is missing or has changed since it was scanned.
    """
    batches = minibatches(len(files.videos), batch_size=batch_size)
    passes = [sum(_num_passes(each, len(batch.videos), memory) for each in networks) for batch in batches]
    sums = {pair: CkaMaps(*(len(networks[number].layers) for number in pair)) for pair in pairs}
    num_done, counts = _resumed(parts, sums)
    progress = _Progress(on_stage, done=sum(passes[:num_done]), total=sum(passes))
    source = SeveralRecipes([network.source for network in networks])
    with ViewLoader(source, files, workers=workers) as loader:
        for number, batch in enumerate(batches[num_done:], start=num_done):
            clips = [each[:, 0] for each in loader.decodable(batch, following=batches[number + 1 :]).arrays]
            num_clips = len(clips[0]) if clips and len(clips[0]) >= SMALLEST_BATCH else 0
            if num_clips:
                grams = [
                    _grams(network, own, number, memory=memory, kept=parts.within(f"grams-{place}"), progress=progress)
                    for place, (network, own) in enumerate(zip(networks, clips, strict=True))
                ]
                for (first, second), maps in sums.items():
                    maps.update(grams[first], grams[second])
            counts["num_clips"] += num_clips
            counts["num_left_out"] += len(batch.videos) - num_clips
            counts["num_passes"] += sum(_num_passes(each, num_clips, memory) for each in networks if num_clips)
            _keep(parts, sums, num_done=number + 1, counts=counts)
    if not counts["num_clips"]:
        raise ManifestError(
            f"fewer than {SMALLEST_BATCH} clips of each minibatch can be decoded; `featcache scan --decode` says why"
        )
    return CkaSums(maps=sums, **counts)


class _Progress:
    """Counts clips that have passed a network."""

    def __init__(self, on_stage: OnStage, *, done: int, total: int) -> None:
        self._on_stage, self._done, self._total = on_stage, done, total

    def add(self, num_clips: int, name: str) -> None:
        """Count further clips through the network of this name."""
        self._done += num_clips
        self._on_stage("pass", self._done, self._total, name)


def _num_passes(network: ReadyNetwork, num_clips: int, memory: int) -> int:
    """Number of forward passes of single clips for a minibatch."""
    return sum(map(len, network.watched.passes(num_clips, memory=memory)))


def _grams(
    network: ReadyNetwork, clips: Tensor, number: int, *, memory: int, kept: Parts, progress: _Progress
) -> Tensor:
    """Centred Gram matrices of a minibatch, float64 [L, n, n] on the CPU, which are kept until the next minibatch."""
    found = kept.read(_GRAMS)
    if found is not None and found.step == number:
        progress.add(_num_passes(network, len(clips), memory), network.name)
        return found.tensors[_GRAMS]
    groups = network.watched.passes(len(clips), memory=memory)
    grams = network.watched.grams(clips, groups, on_pass=lambda passed: progress.add(passed, network.name))
    made = centred(grams).cpu()
    kept.write(_GRAMS, step=number, tensors={_GRAMS: made}, facts={})
    return made


def _keep(parts: Parts, sums: Mapping[Pair, CkaMaps], *, num_done: int, counts: Mapping[str, int]) -> None:
    tensors = {
        f"{first}-{second}.{name}": tensor
        for (first, second), maps in sums.items()
        for name, tensor in maps.state().items()
    }
    parts.write(_SUMS, step=num_done, tensors=tensors, facts=dict(counts))


def _resumed(parts: Parts, sums: Mapping[Pair, CkaMaps]) -> tuple[int, dict[str, int]]:
    """Take up the sums that were kept; returns how many minibatches they are of, and the counts."""
    kept = parts.read(_SUMS)
    if kept is None:
        return 0, {"num_clips": 0, "num_left_out": 0, "num_passes": 0}
    for (first, second), maps in sums.items():
        maps.load(kept.part(f"{first}-{second}"))
    return kept.step, dict(kept.facts)
