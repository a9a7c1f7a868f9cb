"""The networks that ``evaluate cka`` compares: built, on a device, and with the clips that each of them reads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from featcache.backbones import Backbone, build_backbone
from featcache.backbones.classifier_file import is_classifier, read_facts
from featcache.backbones.run_file import read_run_file
from featcache.backbones.trainable import ClipEncoder, clip_feature, clip_length
from featcache.data.decoding.clips import CropSize
from featcache.evaluation.cka_settings import CkaSettings, ComparedNetwork
from featcache.evaluation.layer_grams import LayerKinds, WatchedNetwork
from featcache.loaders.recipe_rows import RecipeSource
from featcache.recipes import FeatureRecipe, SamplingRecipe

RANDOM = "random"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadyNetwork:
    """A network whose layers are compared.

    Attributes:
        name: Name in pictures and tables.
        recipe: Its backbone, weights and preprocessing.
        clip: Recipe of the clip of a video, of which there is one.
        watched: The network with its layers.
    """

    name: str
    recipe: FeatureRecipe
    clip: SamplingRecipe
    watched: WatchedNetwork

    @property
    def source(self) -> RecipeSource:
        """The pixels of the clip."""
        crop = CropSize(size=self.recipe.input_size, interpolation=self.recipe.interpolation)
        return RecipeSource(self.clip, crop=crop, seed=0)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of its layers."""
        return tuple(layer.name for layer in self.watched.layers)


def build_networks(settings: CkaSettings, *, device: torch.device) -> list[ReadyNetwork]:
    """Build the one network or both.

    Args:
        settings: Networks, and the shape of their clips.
        device: Device of the networks.

    Raises:
        ConfigError: A backbone cannot take such clips, or its layers cannot be seen.
        UnknownNameError: There is no such backbone.
        WeightsError: Weights cannot be found or do not fit.
    """
    made = []
    for compared, name in zip(settings.networks, _names(settings.networks), strict=True):
        backbone = build_backbone(compared.backbone, weights=compared.weights)
        recipe, clip = _shown(backbone, compared, settings)
        made.append(_watched(backbone, recipe, clip, name=name, kinds=settings.layers, device=device))
    return made


def build_untrained(
    networks: Sequence[ReadyNetwork], settings: CkaSettings, *, device: torch.device
) -> list[ReadyNetwork]:
    """The same networks with random weights, one for each; two of one backbone that read the same clips are one.

    Args:
        networks: The networks.
        settings: Which layers count.
        device: Device of the networks.

    Raises:
        WeightsError: A backbone does not support random weights.
    """
    made: list[ReadyNetwork] = []
    for network in networks:
        backbone = build_backbone(network.recipe.backbone, weights=RANDOM)
        recipe = replace(network.recipe, weights_hash=backbone.weights_hash)
        same = [each for each in (*networks, *made) if (each.recipe, each.clip) == (recipe, network.clip)]
        name = f"{recipe.backbone} untrained"
        made.append(
            same[0]
            if same
            else _watched(backbone, recipe, network.clip, name=name, kinds=settings.layers, device=device)
        )
    return made


def _shown(
    backbone: Backbone, compared: ComparedNetwork, settings: CkaSettings
) -> tuple[FeatureRecipe, SamplingRecipe]:
    """What a network reads, and the clip in the middle of a video; sizes are those of its run, unless they are set."""
    path = Path(compared.weights).expanduser()
    if is_classifier(path):
        facts = read_facts(path)
        num_frames = settings.num_frames or facts.views.num_frames
        recipe = replace(facts.feature, weights_hash=backbone.weights_hash)
    else:
        run = read_run_file(path) if path.is_file() else None
        said = {} if run is None else run.settings
        num_frames = clip_length(
            backbone, settings.num_frames or said.get("num_frames") or said.get("clips.num_frames")
        )
        mean, std = (None if said.get(name) is None else tuple(said[name]) for name in ("mean", "std"))
        recipe = clip_feature(
            backbone,
            compared.backbone,
            num_frames=num_frames,
            input_size=said.get("input_size"),
            mean=mean,
            std=std,
        )
    if settings.input_size is not None:
        recipe = replace(recipe, input_size=settings.input_size)
    clip = SamplingRecipe(
        num_clips=1,
        num_frames=num_frames,
        frame_stride=settings.frame_stride or backbone.card.frame_stride,
        crop_fraction=backbone.card.crop_fraction,
        decoder=settings.decoder,
    )
    return recipe, clip


def _watched(
    backbone: Backbone,
    recipe: FeatureRecipe,
    clip: SamplingRecipe,
    *,
    name: str,
    kinds: LayerKinds,
    device: torch.device,
) -> ReadyNetwork:
    encoder = ClipEncoder(backbone, recipe, num_frames=clip.num_frames, is_frozen=True).placed(device).eval()
    shape = (clip.num_frames, 3, recipe.input_size, recipe.input_size)
    watched = WatchedNetwork(encoder.features, encoder.network, clip=shape, device=device, kinds=kinds, name=name)
    return ReadyNetwork(name=name, recipe=recipe, clip=clip, watched=watched)


def _names(networks: Sequence[ComparedNetwork]) -> list[str]:
    """Names of the networks: that of their run if the weights are of one; the second of two equal ones is numbered."""
    names = []
    for each in networks:
        path = Path(each.weights).expanduser()
        run = read_run_file(path) if path.is_file() else None
        told = f"{each.backbone} {path.stem}" if path.is_file() else each.backbone
        name = run.name if run is not None else f"{told} untrained" if each.weights == RANDOM else told
        names.append(f"{name} #2" if name in names else name)
    return names
