"""What the networks of AdViSe's cost tables take: counts, and the measured time and memory of a step.

Source: AdViSe, Tables 2, 3, 6 and 7. A step works on made-up pixels on the device: decoding and augmentation are not
part of it. The frozen image model encodes every clip in the loop, without gradients, as in the paper.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featcache.backbones import build_backbone
from featcache.backbones.outputs import macs_per_row, record_spec, resolve_recipe, to_records
from featcache.config import to_yaml
from featcache.data.transforms import normalise
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.machine import num_cores, resolve_device, set_matmul
from featcache.methods.advise.playback import rate_loss
from featcache.methods.advise.settings import AdviseCostSettings, AdviseSettings, R3d50Settings
from featcache.networks.counting import count_macs, count_parameters
from featcache.networks.r3d50 import R3d50
from featcache.networks.tmm import TmmClassifier
from featcache.networks.tmm_cost import GIGA, MEGA, counted_cost
from featcache.stages import OnStage, ignore
from featcache.summary import Summary
from featcache.training.generators import seeded_torch
from featcache.training.optimisers import build_optimiser
from featcache.training.runs import run_folder

PEAK_MEMORY = "peak_memory_gigabytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class CostResult:
    """Cost of a network.

    Attributes:
        folder: Folder of the result.
        network: The network, as in the settings.
        device: Device on which it was measured.
        cost: ``megaparameters`` and ``gigamacs`` of what is trained, for one clip, and
            ``convolution_megaparameters`` of a temporal module; ``frozen_megaparameters`` and ``frozen_gigamacs`` of
            the image model, 0 without one; where steps were measured, the median ``seconds`` of a step with
            ``seconds_least`` and ``seconds_most``, and ``peak_memory_gigabytes`` of the GPU, ``None`` on a CPU.
    """

    folder: str
    network: str
    device: str
    cost: dict[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return dataclasses.asdict(self)

    def summary(self) -> Summary:
        """All numbers."""
        facts = {name: "not measured" if value is None else f"{value:.4g}" for name, value in self.cost.items()}
        return Summary(facts={"network": self.network, "device": self.device, **facts, "run": self.folder})


class FrozenMaps(nn.Module):
    """A frozen image model from clips to maps, without gradients.

    Attributes:
        shape: ``(h, w, C)`` of a map.
        counts: ``frozen_megaparameters``, and ``frozen_gigamacs`` of one clip.
    """

    def __init__(self, settings: AdviseCostSettings, *, device: str) -> None:
        super().__init__()
        assert settings.backbone is not None
        self._backbone = build_backbone(settings.backbone, weights=settings.weights).to(device)
        self._recipe = resolve_recipe(
            self._backbone,
            settings.backbone,
            output="map",
            grid=settings.grid,
            channels=settings.channels,
            input_size=settings.size,
            precision="float32",
            compute=settings.compute,
        )
        self._device = device
        height, width, depth = record_spec(self._backbone, self._recipe, num_frames=1, layout="frames").shape
        self.shape = (height, width, depth)
        macs = macs_per_row(self._backbone, self._recipe, num_frames=settings.clips.num_frames)
        self.counts = {
            "frozen_megaparameters": count_parameters(self._backbone.network) / MEGA,
            "frozen_gigamacs": macs / GIGA,
        }

    @torch.no_grad()
    def forward(self, clips: Tensor) -> Tensor:
        """Map RGB clips, uint8 [B, T, 3, S, S], to float32 [B, T, h, w, C]."""
        recipe = self._recipe
        pixels = normalise(clips.flatten(0, 1), mean=recipe.mean, std=recipe.std)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        kind, in_half = torch.device(self._device).type, recipe.compute == "bfloat16"
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=in_half):
            output = self._backbone.encode(pixels, [recipe.layer])[recipe.layer]
        return torch.unflatten(to_records(output, recipe, num_frames=1), 0, clips.shape[:2])


def measure_cost(settings: AdviseCostSettings, *, on_stage: OnStage = ignore) -> CostResult:
    """Count a network, and measure its steps if the settings ask for some; nothing is trained or kept.

    Args:
        settings: The network and the step.
        on_stage: Called with the stage ``steps`` after each step.

    Raises:
        ConfigError: The backbone has no maps, or there is no such device.
        UnknownNameError: There is no such backbone.
        WeightsError: The weights cannot be found or do not fit.
    """
    device = resolve_device(settings.device)
    torch.set_num_threads(settings.threads or num_cores())
    set_matmul(settings.matmul)
    frozen = None if settings.backbone is None else FrozenMaps(settings, device=device)
    cost: dict[str, float | None] = dict(counts_of(settings, frozen))
    if settings.num_steps:
        with seeded_torch(0, "cost"):
            step = _step(settings, frozen, device=device)
            cost |= measured(step, settings.num_steps, device=device, on_stage=on_stage)
    folder = run_folder(settings, out=settings.out, store=settings.network, name="cost")
    put_replace(folder / "config.yaml", to_yaml(settings).encode())
    result = CostResult(folder=str(folder), network=settings.network, device=device, cost=cost)
    put_replace(Path(folder) / "result.json", canonical_json(result.to_dict()))
    return result


def counts_of(settings: AdviseCostSettings, frozen: FrozenMaps | None) -> dict[str, float]:
    """Counts of the network, and of the image model where there is one; see :class:`CostResult`."""
    ahead = {"frozen_megaparameters": 0.0, "frozen_gigamacs": 0.0} if frozen is None else frozen.counts
    if settings.network == "backbone":
        return {"megaparameters": 0.0, "gigamacs": 0.0} | ahead
    num_frames, num_classes = settings.clips.num_frames, len(settings.clips.rates)
    if settings.network == "tmm":
        shape = _pooled(settings) if frozen is None else frozen.shape
        return counted_cost(settings.tmm, shape=shape, num_frames=num_frames, num_classes=num_classes) | ahead
    with torch.device("meta"):
        network = R3d50(num_classes=num_classes).eval()
        clip = torch.empty(1, num_frames, settings.size, settings.size, 3)
    counts = {"megaparameters": count_parameters(network) / MEGA, "gigamacs": count_macs(network, clip) / GIGA}
    return counts | ahead


def measured(
    step: Callable[[], None], num_steps: int, *, device: str, on_stage: OnStage = ignore
) -> dict[str, float | None]:
    """Time and memory of a step, after one that is not counted; see :class:`CostResult`.

    Args:
        step: One step.
        num_steps: Number of counted steps.
        device: Device on which it works.
        on_stage: Called with the stage ``steps`` after each of them.
    """
    on_gpu = torch.device(device).type == "cuda"
    step()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for number in range(num_steps):
        _wait(device)
        began = time.perf_counter()
        step()
        _wait(device)
        seconds.append(time.perf_counter() - began)
        on_stage("steps", number + 1, num_steps)
    return {
        "seconds": statistics.median(seconds),
        "seconds_least": min(seconds),
        "seconds_most": max(seconds),
        PEAK_MEMORY: torch.cuda.max_memory_allocated(device) / GIGA if on_gpu else None,
    }


def _step(settings: AdviseCostSettings, frozen: FrozenMaps | None, *, device: str) -> Callable[[], None]:
    """A training step, or a forward pass of the image model, on made-up clips."""
    clips, num_classes = settings.clips, len(settings.clips.rates)
    parts = list(_made_up(settings, frozen, device=device))
    if settings.network == "backbone":
        assert frozen is not None
        image_model = frozen

        def infer() -> None:
            for part in parts:
                image_model(part)

        return infer
    trained: nn.Module
    method: type[AdviseSettings | R3d50Settings]
    if settings.network == "r3d50":
        method, trained = R3d50Settings, R3d50(num_classes=num_classes)
    else:
        height, _, depth = _pooled(settings) if frozen is None else frozen.shape
        method = AdviseSettings
        trained = TmmClassifier(settings.tmm, width_in=depth, grid=height, num_classes=num_classes)
    trained = trained.to(device).train()
    optimiser = build_optimiser(trained, method.model_fields["training"].default.optimiser, lr=1e-6)

    def train() -> None:
        for part in parts:
            inputs = part if frozen is None else frozen(part)
            logits = trained(inputs.float())
            labels = torch.arange(len(logits), device=device) % num_classes
            torch.autograd.backward(rate_loss(logits, labels, settings=clips))
        optimiser.step()
        optimiser.zero_grad()

    return train


def _made_up(settings: AdviseCostSettings, frozen: FrozenMaps | None, *, device: str) -> Iterator[Tensor]:
    """Random inputs of a step on the device, one tensor per pass: clips of pixels, or of maps."""
    clips = settings.clips
    passes = clips.num_clips if clips.sequential else 1
    shape = (settings.batch_size * clips.num_clips // passes, clips.num_frames)
    for _ in range(passes):
        if frozen is not None:
            yield torch.randint(0, 256, (*shape, 3, settings.size, settings.size), dtype=torch.uint8, device=device)
        elif settings.network == "r3d50":
            yield torch.randint(0, 256, (*shape, settings.size, settings.size, 3), dtype=torch.uint8, device=device)
        else:
            yield torch.randn(*shape, *_pooled(settings), device=device)


def _pooled(settings: AdviseCostSettings) -> tuple[int, int, int]:
    height, width, depth = settings.shape
    return settings.grid or height, settings.grid or width, settings.channels or depth


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
