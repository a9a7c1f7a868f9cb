"""Initial student and teacher of a run: from random weights, from an image network, or from an SVT."""

import dataclasses
import logging
from pathlib import Path

from torch import Tensor

from featcache.backbones.branches import load_branch
from featcache.backbones.svt import CARD, load_image_weights, read_svt
from featcache.backbones.weights import read_state_dict
from featcache.data.transforms import normalise
from featcache.errors import WeightsError
from featcache.methods.svt.settings import SvtSettings
from featcache.networks.dino_head import DinoHead
from featcache.networks.self_distillation import Branch, SvtPretraining
from featcache.networks.timesformer import SIZES, TimeSformer, TimeSformerConfig, config_of
from featcache.training.generators import seeded_torch

log = logging.getLogger(__name__)


def network_input(pixels: Tensor) -> Tensor:
    """Input of the network from views uint8 [..., 3, S, S]: float32 of the same shape, normalised, on their device.

    Mean and standard deviation are those with which a trained SVT is used in extraction.
    """
    return normalise(pixels, mean=CARD.mean, std=CARD.std)


def build_module(settings: SvtSettings, *, seed: int) -> SvtPretraining:
    """Initial student and teacher of a run with this seed, on the CPU; the log lists tensors taken from a file.

    Raises:
        WeightsError: The weights cannot be read, or have another size.
    """
    with seeded_torch(seed, "svt"):
        backbone = _initial_backbone(settings)
        head = DinoHead(
            backbone.config.width,
            hidden=settings.head.hidden,
            bottleneck=settings.head.bottleneck,
            num_prototypes=settings.head.prototypes,
        )
        return SvtPretraining(Branch(backbone, head, prepare=network_input))


def _initial_backbone(settings: SvtSettings) -> TimeSformer:
    init = settings.init
    if init.weights is None:
        return TimeSformer(_config(settings, SIZES[settings.size], num_frames=settings.time_positions))
    path = Path(init.weights).expanduser()
    if init.start == "image":
        state = read_state_dict(path)
        network = TimeSformer(_config(settings, config_of(settings.size, state), num_frames=settings.time_positions))
        keys = load_image_weights(network, state, source=_said(path, settings), copies_to_time=init.copies_to_time)
    else:
        state, dropped = read_svt(path)
        config = config_of(settings.size, state)
        if config.stem != settings.stem:
            raise WeightsError(
                f"init.weights {path} has the stem {config.stem!r} and stem is {settings.stem!r}; set stem to that of "
                "the file"
            )
        network = TimeSformer(_config(settings, config, num_frames=config.num_frames))
        keys = load_branch(network, state, source=_said(path, settings), dropped=dropped)
    log.info("%s", keys)
    return network


def _config(settings: SvtSettings, config: TimeSformerConfig, *, num_frames: int) -> TimeSformerConfig:
    return dataclasses.replace(
        config,
        num_frames=num_frames,
        stem=settings.stem,
        init_std=settings.init.std,
        time_std=settings.init.time_std,
        drop_path=settings.drop_path,
        recomputes_blocks=settings.recomputes_blocks,
    )


def _said(path: Path, settings: SvtSettings) -> str:
    return f"init.weights {path} for size {settings.size!r}"
