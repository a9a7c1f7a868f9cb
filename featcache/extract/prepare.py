"""Prepares a run from its settings: builds backbones, resolves recipes, and finds the videos that a store lacks."""

import re
from dataclasses import dataclass
from pathlib import Path

from featcache.backbones import Backbone, build_backbone
from featcache.backbones.outputs import macs_per_row, record_spec, resolve_recipe
from featcache.backbones.tuned import card_for, temporal_for
from featcache.errors import ClipLengthError, ConfigError, RecipeMismatchError
from featcache.extract.encode import BoundFeature, one_a_forward
from featcache.extract.settings import ExtractSettings, FeatureSettings
from featcache.machine import num_cores, resolve_device
from featcache.recipes import SamplingRecipe, first_difference
from featcache.store.documents import is_store
from featcache.store.reader import open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Settings with every choice resolved.

    Attributes:
        settings: The settings without any ``null`` or ``auto`` that affects the result.
        sampling: The store's recipe.
        features: The arrays, bound to backbones on their device.
        device: Device of the backbones.
        threads: Number of threads of the forward pass.
        encode_batch: Number of rows per forward pass.
        decode_workers: Number of decoding processes.
        ahead_bytes: Bytes of decoded pixels that may wait for the encoder.
        macs_per_row: Multiply-accumulates of a row's forward passes, all backbones together.
    """

    settings: ExtractSettings
    sampling: SamplingRecipe
    features: tuple[BoundFeature, ...]
    device: str
    threads: int
    encode_batch: int
    decode_workers: int
    ahead_bytes: int
    macs_per_row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a process that encodes may use.

    Attributes:
        device: Its device.
        cores: Its number of cores.
    """

    device: str
    cores: int


def num_decoders(settings: ExtractSettings, *, machine: Machine) -> int:
    """Number of decoding processes: as set, or what the encoder leaves room for."""
    return settings.runtime.decode_workers or (1 if machine.device == "cpu" else max(1, machine.cores // 2))


def prepare(settings: ExtractSettings, *, device: str | None = None, machine: Machine | None = None) -> Prepared:
    """Build the backbones and resolve everything that the settings leave open.

    Args:
        settings: The extraction.
        device: Device on which to build them where that is resolved already, else ``None``.
        machine: The machine that computes, if that is not this one, for whatever depends on it;
            ``None``: all cores of this one.

    Raises:
        UnknownNameError: There is no such backbone or layer.
        WeightsError: Weights cannot be found.
        ConfigError: Settings contradict each other or do not fit a backbone.
        RecipeMismatchError: The store has another sampling recipe; names the field.
    """
    device = device or resolve_device(settings.runtime.device)
    machine = machine or Machine(device=device, cores=num_cores())
    built: dict[tuple[str, str], Backbone] = {}
    for feature in settings.features:
        key = (feature.backbone, feature.weights)
        if key not in built:
            built[key] = build_backbone(feature.backbone, weights=feature.weights).to(device)
    stored = stored_sampling(settings.out)
    leading = settings.features[0]
    backbone = built[leading.backbone, leading.weights]
    first = card_for(backbone, leading.output)
    sampling = settings.sampling.resolve(
        num_frames=first.num_frames,
        frame_stride=first.frame_stride,
        crop_fraction=first.crop_fraction,
        temporal=temporal_for(backbone, leading.output),
        stored=stored,
    )
    if stored is not None and (difference := first_difference(stored, sampling)):
        raise RecipeMismatchError(
            f"{settings.out} was made with another sampling recipe: {difference}; "
            "use the store's settings or choose another folder"
        )
    features = tuple(
        _bind(feature, built[feature.backbone, feature.weights], sampling, origin=_origin_of_clips(settings, stored))
        for feature in settings.features
    )
    names = [feature.name for feature in features]
    if duplicate := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"two features are named {duplicate!r}; give one of them a name of its own")
    on_gpu = machine.device != "cpu"
    inputs_a_row = max(sampling.num_frames if feature.backbone.kind == "image" else 1 for feature in features)
    any_video = any(feature.backbone.kind == "video" for feature in features)
    batch = (8 if any_video else 256) if on_gpu else (1 if any_video else 8)  # on CPU a batch should fit its caches
    resolved = settings.model_copy(
        update={
            "sampling": settings.sampling.model_copy(
                update={name: getattr(sampling, name) for name in type(settings.sampling).model_fields}
            ),
            "features": tuple(
                _resolved(given, bound) for given, bound in zip(settings.features, features, strict=True)
            ),
        }
    )
    encode_batch = settings.runtime.encode_batch or max(1, batch // inputs_a_row)
    crops = {feature.crop for feature in features}
    row_bytes = sampling.num_frames * sum(3 * crop.size**2 for crop in crops)
    return Prepared(
        settings=resolved,
        sampling=sampling,
        features=features,
        device=device,
        threads=settings.runtime.threads or machine.cores,
        encode_batch=encode_batch,
        decode_workers=num_decoders(settings, machine=machine),
        ahead_bytes=settings.runtime.ahead_megabytes * 10**6 or max(32 * 10**6, 4 * encode_batch * row_bytes),
        macs_per_row=sum(
            macs_per_row(feature.backbone, feature.recipe, num_frames=sampling.num_frames)
            for feature in one_a_forward(features)
        ),
    )


def bind_feature(feature: FeatureSettings, backbone: Backbone, sampling: SamplingRecipe) -> BoundFeature:
    """Resolve one feature against its backbone and the store's sampling."""
    clips_of_images = backbone.kind == "image" and sampling.layout == "clips"
    if backbone.kind == "video" and sampling.layout == "frames":
        raise ConfigError(
            f"{feature.backbone!r} encodes clips of several frames and cannot fill a frame bank; "
            "use sampling.layout clips, or an image backbone"
        )
    average = feature.average_frames
    if average is None:
        average = clips_of_images and feature.output in ("cls", "mean", "logits")
    if average and not clips_of_images:
        raise ConfigError(f"average_frames needs an image backbone on clips; remove it for {feature.backbone!r}")
    recipe = resolve_recipe(
        backbone,
        feature.backbone,
        layer=None if feature.layer == "last" else feature.layer,
        output=feature.output,
        average_frames=average,
        grid=feature.grid,
        channels=feature.channels,
        input_size=feature.input_size,
        interpolation=feature.interpolation,
        mean=feature.mean,
        std=feature.std,
        precision=feature.precision,
        compute=feature.compute,
        enlarge=feature.enlarge,
        card=card_for(backbone, feature.output),
    )
    record = record_spec(backbone, recipe, num_frames=sampling.num_frames, layout=sampling.layout)
    name = feature.name or _slug(f"{feature.backbone}-{recipe.layer}-{recipe.output}")
    return BoundFeature(name=name, recipe=recipe, record=record, backbone=backbone)


def _bind(feature: FeatureSettings, backbone: Backbone, sampling: SamplingRecipe, *, origin: str) -> BoundFeature:
    """:func:`bind_feature`; if a backbone refuses the clips, the error says which setting determined them."""
    try:
        return bind_feature(feature, backbone, sampling)
    except ClipLengthError as error:
        raise ClipLengthError(f"{error} (the clips have the frames of {origin})") from error


def _origin_of_clips(settings: ExtractSettings, stored: SamplingRecipe | None) -> str:
    """The source of the number of frames per clip."""
    if settings.sampling.num_frames is not None:
        return "sampling.num_frames"
    return settings.out if stored is not None else f"{settings.features[0].backbone!r}, the first backbone"


def stored_sampling(store: Path | str) -> SamplingRecipe | None:
    """The recipe of the store at a path, or ``None`` if there is no store yet."""
    return open_store(store).sampling if is_store(store) else None


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


def _resolved(given: FeatureSettings, bound: BoundFeature) -> FeatureSettings:
    recipe = bound.recipe
    return given.model_copy(
        update={
            "name": bound.name,
            "layer": recipe.layer,
            "average_frames": recipe.average_frames,
            "input_size": recipe.input_size,
            "interpolation": recipe.interpolation,
            "mean": recipe.mean,
            "std": recipe.std,
        }
    )
