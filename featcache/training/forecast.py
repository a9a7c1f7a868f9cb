"""What a training on videos will take: GPU hours by precision, the cores that feed the GPUs, and bytes.

Operations are counted, decoding is measured on a sample, and the speed of GPUs is assumed: a share of the peak that
their data sheets give for dense products. The summary prints these assumptions.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from featcache.summary import SummaryTable
from featcache.units import duration, readable_bytes

TERA = 1e12
SECONDS_PER_HOUR = 3600.0
PEAKS: Mapping[str, Mapping[str, float]] = {
    "A100": {"float32": 19.5, "TF32": 156.0, "bfloat16": 312.0},
    "H100": {"float32": 67.0, "TF32": 495.0, "bfloat16": 989.0},
}
"""Dense peak of a GPU in TFLOP/s by precision, as the data sheets of the SXM cards give it."""
UTILISATION: Mapping[str, float] = {"float32": 0.7, "TF32": 0.4, "bfloat16": 0.4}
"""Share of the peak that a training is assumed to reach; not measured."""
NUM_GPUS = (1, 4, 8)
"""Numbers of GPUs for which hours are given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """What a step computes and a run keeps.

    Attributes:
        trained_macs: Multiply-accumulates of one forward pass of what is trained, per video.
        frozen_macs: Those of what gets no gradient, per video.
        recomputes: Whether the forward pass is repeated during the backward pass (gradient checkpointing).
        checkpoint_bytes: Size of a seed's checkpoint: module, optimiser, average.
        weights_bytes: Size of a seed's files of weights; 0 if there are none.
        gradient_bytes: Size of the gradients.
    """

    trained_macs: int
    frozen_macs: int = 0
    recomputes: bool = False
    checkpoint_bytes: int
    weights_bytes: int
    gradient_bytes: int

    @property
    def operations(self) -> float:
        """Floating-point operations per video and step; a backward pass counts as two forward passes."""
        passes = 4 if self.recomputes else 3
        return 2.0 * (passes * self.trained_macs + self.frozen_macs)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSample:
    """How fast one core decodes, measured on some of the source's own videos.

    Attributes:
        num_videos: Number of videos that were decoded.
        num_failed: Number of sampled videos that cannot be used.
        failure: The first of these with the reason; empty if there is none.
        seconds: Time per video with the configured views: opening, decoding, cropping, colours.
    """

    num_videos: int
    num_failed: int = 0
    failure: str = ""
    seconds: float


class OnGpu(NamedTuple):
    """A kind of GPU at one precision.

    Attributes:
        gpu: Name of the GPU.
        precision: ``float32``, ``TF32`` or ``bfloat16``.
        peak_teraflops: Its dense peak in TFLOP/s.
        utilisation: Assumed share of it.
        videos_a_second: Videos per second that one process trains on, and needs.
        cores: Cores that decode them; ``None`` if decoding was not measured.
        hours: Hours of the run by number of GPUs; empty if the number of videos is not known.
    """

    gpu: str
    precision: str
    peak_teraflops: float
    utilisation: float
    videos_a_second: float
    cores: int | None
    hours: Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a run takes, and what is missing.

    Attributes:
        num_videos: Number of videos of an epoch; ``None`` if they cannot be listed.
        num_epochs: Number of epochs per seed.
        num_seeds: Number of seeds.
        cost: Cost of a step; ``None`` if the network cannot be built.
        decoding: The sample; ``None`` if no video could be decoded.
        num_cores: Number of cores of this machine.
        free_bytes: Free space where the run is written.
        precision: Precision that the settings choose: ``float32``, ``TF32`` or ``bfloat16``.
        missing: What is not at hand, a sentence each.
    """

    num_videos: int | None
    num_epochs: int
    num_seeds: int
    cost: StepCost | None
    decoding: DecodeSample | None
    num_cores: int
    free_bytes: int
    precision: str
    missing: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int | None:
        """Size of what the run leaves; ``None`` if the network cannot be built."""
        if self.cost is None:
            return None
        return self.num_seeds * (self.cost.checkpoint_bytes + self.cost.weights_bytes)

    @property
    def num_passes(self) -> int | None:
        """Number of videos that the whole run trains on, counted again in every epoch; ``None`` if it is not known."""
        return None if self.num_videos is None else self.num_videos * self.num_epochs * self.num_seeds

    @property
    def decode_hours(self) -> float | None:
        """Hours that this machine's cores decode for the whole run; ``None`` if that is not known."""
        if self.decoding is None or self.num_passes is None:
            return None
        return self.num_passes * self.decoding.seconds / self.num_cores / SECONDS_PER_HOUR

    @property
    def gpus(self) -> tuple[OnGpu, ...]:
        """Each kind of GPU at each precision."""
        if self.cost is None:
            return ()
        return tuple(
            self._on(gpu, precision, peak, self.cost)
            for gpu, peaks in PEAKS.items()
            for precision, peak in peaks.items()
        )

    def _on(self, gpu: str, precision: str, peak: float, cost: StepCost) -> OnGpu:
        rate = peak * TERA * UTILISATION[precision] / cost.operations
        hours = {}
        if self.num_passes is not None:
            hours = {number: self.num_passes / rate / number / SECONDS_PER_HOUR for number in NUM_GPUS}
        return OnGpu(
            gpu=gpu,
            precision=precision,
            peak_teraflops=peak,
            utilisation=UTILISATION[precision],
            videos_a_second=rate,
            cores=None if self.decoding is None else math.ceil(rate * self.decoding.seconds),
            hours=hours,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        decoding = self.decoding
        return {
            **dataclasses.asdict(self),
            "videos_a_second_a_core": None if decoding is None else 1 / decoding.seconds,
            "decode_hours": self.decode_hours,
            "operations_a_video": None if self.cost is None else self.cost.operations,
            "num_bytes": self.num_bytes,
            "gpus": [
                {**each._asdict(), "hours": {str(number): hours for number, hours in each.hours.items()}}
                for each in self.gpus
            ],
        }

    def tables(self) -> tuple[SummaryTable, ...]:
        """The table of GPUs; none if the network cannot be built."""
        if not self.gpus:
            return ()
        counted = [f"{number} GPU{'s' if number > 1 else ''}" for number in NUM_GPUS]
        rows = tuple(
            (
                f"{each.gpu}, {each.precision}",
                f"{each.utilisation:.0%} of {each.peak_teraflops:g}",
                f"{each.videos_a_second:.3g}",
                "-" if each.cores is None else each.cores,
                *(duration(each.hours[number] * SECONDS_PER_HOUR) if each.hours else "-" for number in NUM_GPUS),
            )
            for each in self.gpus
        )
        columns = ("GPU", "assumed TFLOP/s", "videos/s per GPU", "cores per GPU", *counted)
        return (SummaryTable(title="what GPUs take and need, if their cores keep up", columns=columns, rows=rows),)

    def facts(self) -> dict[str, object]:
        """Names and values of the summary."""
        facts: dict[str, object] = {}
        if self.decoding is not None:
            one = self.decoding
            facts["decoding"] = (
                f"{1 / one.seconds:.3g} videos/s per core with these views, measured on {one.num_videos} of the videos"
            )
            if self.decode_hours is not None:
                spent = duration(self.decode_hours * SECONDS_PER_HOUR)
                facts["this machine"] = f"its {self.num_cores} cores decode for {spent} in all"
            if one.num_failed:
                facts["unusable"] = f"{one.num_failed} of the sampled videos, e.g. {one.failure}"
        if self.cost is not None:
            assert self.num_bytes is not None, "the cost is known"
            cost = self.cost
            facts["operations"] = f"{cost.operations / TERA:.3g} TFLOP per video and step"
            facts["precision"] = f"{self.precision}, by training.precision and training.matmul"
            facts["disk"] = (
                f"{readable_bytes(self.num_bytes)} of {readable_bytes(self.free_bytes)} free: per seed a checkpoint of "
                f"{readable_bytes(cost.checkpoint_bytes)}, of which there are two for a moment"
                + (f", and weights of {readable_bytes(cost.weights_bytes)}" if cost.weights_bytes else "")
            )
            kept = readable_bytes(cost.checkpoint_bytes + cost.gradient_bytes)
            facts["memory"] = f"{kept} per GPU for weights, optimiser and gradients; activations come on top"
        return facts

    def lines(self) -> tuple[str, ...]:
        """What is missing, a line each, and how much."""
        missing = [f"missing: {sentence}" for sentence in self.missing]
        num_missing = len(missing)
        said = f"{num_missing} things are missing" if num_missing > 1 else "1 thing is missing"
        return (*missing, said if missing else "nothing is missing")
