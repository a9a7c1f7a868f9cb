"""Presets: the views of a paper by name, as defaults of the settings, which given values override."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from featcache.errors import unknown_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Defaults of ``ExtractSettings``.

    Attributes:
        about: Description in one line.
        sampling: Defaults of ``sampling``.
        feature: Defaults of every entry of ``features``.
    """

    about: str
    sampling: Mapping[str, Any]
    feature: Mapping[str, Any] = field(default_factory=dict)


# SCALE, the authors' extraction configs (PySlowFast): 16 clips of 16 frames, stride 4 at 30 fps, at random starts.
_SCALE: dict[str, Any] = {
    "layout": "clips",
    "temporal": "random",
    "num_clips": 16,
    "num_frames": 16,
    "frame_stride": 4,
    "target_fps": 30.0,
    "short_videos": "clamp",
    "spatial": "random_short_side",
    "flip_probability": 0.5,
    "test": {"temporal": "uniform_open", "num_clips": 5, "spatial": "views", "num_crops": 3, "crop_fraction": 1.0},
}
_MOCO_V2 = {
    "probability": 0.8,
    "brightness": 0.6,
    "contrast": 0.6,
    "saturation": 0.6,
    "hue": 0.15,
    "grey_probability": 0.2,
    "blur_probability": 0.5,
    "blur_sigma": [0.1, 2.0],
}
_ADVISE: dict[str, Any] = {
    "layout": "frames",
    "temporal": "bank",
    "frame_stride": 1,  # a base stride of 2 with 20 % jitter needs a bank with a stride below 1.6
    "spatial": "center_and_random",
    "num_crops": 4,
    "crop_fraction": 1.0,
    "color": {"probability": 0.8, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2},
    "test": {"temporal": "bank", "spatial": "views", "num_crops": 3, "crop_fraction": 1.0},
}

PRESETS: dict[str, Preset] = {
    "scale": Preset(
        about="SCALE, cache 'lin': 16 random clips of 16 frames for training, 5 x 3 views for testing",
        sampling=_SCALE,
    ),
    "scale-aug": Preset(
        about="SCALE, cache 'aug': the same with random resized crops, colour jitter, grey and blur",
        sampling={
            **_SCALE,
            "spatial": "random_resized",
            "scale": [0.2, 0.766],
            "ratio": [0.75, 4 / 3],
            "color": _MOCO_V2,
        },
    ),
    "scale-ssv2": Preset(
        about="SCALE on Something-Something v2: frames 2 apart, never mirrored, 2 x 3 views for testing",
        sampling={**_SCALE, "frame_stride": 2, "flip_probability": 0.0, "test": {**_SCALE["test"], "num_clips": 2}},
    ),
    "advise": Preset(
        about="AdViSe: a bank of all frames as maps, a centre and 3 random crops for training, 3 views for testing",
        sampling=_ADVISE,
        feature={
            "output": "map",
            "precision": "float16",
            "compute": "bfloat16",  # the paper's frozen model
            "input_size": 224,
            "interpolation": "bilinear",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
    ),
}


def with_preset(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in values that ``settings`` do not give; given values are kept, including ``None``.

    Args:
        name: One of :data:`PRESETS`.
        settings: ``ExtractSettings`` as a mapping, still incomplete.

    Raises:
        UnknownNameError: There is no such preset; names the closest.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    preset = PRESETS[name]
    return {
        **settings,
        "sampling": _under(preset.sampling, settings.get("sampling", {})),
        "features": [_under(preset.feature, feature) for feature in settings.get("features", [])],
    }


def _under(defaults: Mapping[str, Any], given: Any) -> Any:
    """``given``, completed recursively with the members of ``defaults`` that it lacks."""
    if not isinstance(given, Mapping):
        return given
    merged = {**defaults, **given}
    for name, value in defaults.items():
        if isinstance(value, Mapping) and name in given:
            merged[name] = _under(value, given[name])
    return merged
