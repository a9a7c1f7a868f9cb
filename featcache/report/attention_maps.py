"""Attention maps over real frames: the patches to which the class token of a vision transformer attends (SVT, Fig. 3).

A map shows the attention of the class token to the patches in the last block, averaged over heads or for each head,
scaled to [0, 1] frame by frame and blended with the frames as in :mod:`featcache.report.activation_maps`. For a
TimeSformer it is the spatial attention, which is separate for each frame; an image network encodes each frame alone.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from featcache.backbones import Backbone, build_backbone
from featcache.backbones.svt import CARDS as SVT_CARDS
from featcache.data.boxes import center_box
from featcache.data.decoding import open_video
from featcache.data.transforms import crop_resize, normalise
from featcache.errors import ConfigError, VideoError
from featcache.files.publish import put_replace
from featcache.files.urls import url_of
from featcache.machine import resolve_device
from featcache.networks.timesformer import Attention
from featcache.recipes import Interpolation
from featcache.report.activation_maps import Pixels, heat, montage, overlay
from featcache.report.drawn import Drawn
from featcache.report.figure_settings import AttentionFigureSettings
from featcache.stages import OnStage, ignore

Frames = Sequence[npt.NDArray[np.uint8]]


def first_token_attention(attention: nn.Module, tokens: Tensor) -> Tensor:
    """Attention weights of the first token: softmax of q k / sqrt(d), float32 [M, heads, N], rows summing to 1.

    Args:
        attention: :class:`featcache.networks.timesformer.Attention`, or timm's, whose norms of q and k are applied.
        tokens: float [M, N, C], the input of the module.
    """
    num_heads: int = attention.num_heads  # type: ignore[assignment]
    qkv: Tensor = attention.qkv(tokens)  # type: ignore[operator]
    queries, keys, _ = torch.unflatten(qkv, -1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    identity = nn.Identity()
    query: Tensor = getattr(attention, "q_norm", identity)(queries[:, :, 0])
    keys = getattr(attention, "k_norm", identity)(keys)
    scores = torch.einsum("mhc,mhnc->mhn", query.float(), keys.float()) * queries.shape[-1] ** -0.5
    weights: Tensor = scores.softmax(dim=-1)
    return weights


@torch.inference_mode()
def class_attention(backbone: Backbone, clip: Tensor) -> Tensor:
    """Attention of the class token to the patches of each frame in the last block.

    Args:
        backbone: ``svt-b`` and its sizes, or a vision transformer of timm with a class token.
        clip: float [T, 3, S, S], normalised as the backbone expects.

    Returns:
        float32 [T, h, w, heads] on the CPU; attention to the class token itself and to registers is left out.

    Raises:
        ConfigError: The backbone is of another kind.
    """
    attention = last_attention(backbone)
    caught: list[Tensor] = []
    hook = attention.register_forward_pre_hook(lambda module, given: caught.append(given[0]))
    try:
        last = backbone.layers[-1]
        output = backbone.encode(clip[None] if backbone.kind == "video" else clip, [last])[last]
    finally:
        hook.remove()
    assert output.map is not None, "a transformer has a map at every layer"
    height, width = output.map.shape[-3:-1]
    patches = first_token_attention(attention, caught[0])[..., -height * width :]
    return torch.unflatten(patches, -1, (height, width)).permute(0, 2, 3, 1).cpu()


def last_attention(backbone: Backbone) -> nn.Module:
    """The attention module of the last block, which produces the final class token.

    Raises:
        ConfigError: There is no such block, or its attention has another form.
    """
    from timm.layers.attention import Attention as TimmAttention  # seconds to import, and rarely needed
    from timm.models import VisionTransformer

    network = backbone.network
    has_class_token = backbone.card in SVT_CARDS.values() or (
        isinstance(network, VisionTransformer) and network.cls_token is not None
    )
    attention = network.blocks[-1].attn if has_class_token else None  # type: ignore[index, union-attr]
    if not isinstance(attention, Attention | TimmAttention):
        raise ConfigError(
            "attention of a class token is drawn for svt-b, svt-s, svt-tiny and vision transformers such as dinov2-b14 "
            "and timm/vit_base_patch16_224.dino, and this backbone is none; give one of them"
        )
    return attention


def draw_attention(settings: AttentionFigureSettings, *, on_stage: OnStage = ignore) -> Drawn:
    """Draw each video: a row of its frames, then a row for each network, or for each head of each.

    Args:
        settings: Settings of the figure.
        on_stage: Never called: a picture takes seconds.

    Raises:
        ConfigError: A backbone has no such attention or does not support the input size, or there is no such device.
        UnknownNameError: There is no such backbone.
        VideoError: A video cannot be read.
        WeightsError: Weights cannot be read, or have another size.
    """
    device = resolve_device(settings.device)
    backbones = {
        name: build_backbone(shown.backbone, weights=shown.weights).to(device)
        for name, shown in settings.networks.items()
    }
    pictures, names, numbers = [], ["frames"], {}
    for source in settings.sources:
        numbers[source], frames = read_frames(Path(source), settings)
        shown = squares(frames, size=settings.size, interpolation="bilinear").permute(0, 2, 3, 1).numpy()
        rows: dict[str, Pixels] = {"frames": shown}
        for name, backbone in backbones.items():
            side = settings.input_size or backbone.card.input_size
            pixels = squares(frames, size=side, interpolation=backbone.card.interpolation)
            maps = class_attention(backbone, normalise(pixels, mean=backbone.card.mean, std=backbone.card.std))
            rows |= {row: overlay(shown, heats) for row, heats in heats_of(name, maps, heads=settings.heads).items()}
        pictures.append(montage(rows))
        names = list(rows)
    buffer = io.BytesIO()
    stacked(pictures).save(buffer, "PNG" if settings.out.lower().endswith(".png") else "JPEG")
    put_replace(Path(settings.out), buffer.getvalue())
    return Drawn(facts={"out": settings.out, "rows": names, "frames": numbers})


def heats_of(name: str, maps: Tensor, *, heads: bool) -> Mapping[str, Tensor]:
    """Heat maps by the name of their row, float32 [T, h, w] in [0, 1]: the mean over heads, or one row per head.

    Args:
        name: Name of the network.
        maps: float [T, h, w, heads].
        heads: Whether each head has a row of its own.
    """
    if not heads:
        return {name: heat(maps)}
    return {f"{name} {head}": heat(maps[..., head : head + 1]) for head in range(maps.shape[-1])}


def read_frames(video: Path, settings: AttentionFigureSettings) -> tuple[list[int], Frames]:
    """Indices of frames spread over a video, and their pictures, uint8 RGB [H, W, 3]; a short video repeats some.

    Raises:
        VideoError: The video cannot be read; the message names it.
    """
    try:
        with open_video(video, decoder=settings.decoder) as reader:
            numbers = np.linspace(0, reader.timeline.num_frames - 1, settings.num_frames).astype(np.int64).tolist()
            pictures = {number: frame.copy() for number, frame in reader.read(sorted(set(numbers)))}
    except VideoError as error:
        reason = f"{(url_of(video) or str(video))!r} cannot be drawn ({error.reason}); give another video"
        raise VideoError(error.status, reason) from error
    return numbers, [pictures[number] for number in numbers]


def squares(frames: Frames, *, size: int, interpolation: Interpolation) -> Tensor:
    """The centred square of each frame, uint8 [T, 3, size, size]."""
    box = center_box(height=frames[0].shape[0], width=frames[0].shape[1], fraction=1.0)
    images = [torch.from_numpy(frame).permute(2, 0, 1) for frame in frames]
    return torch.stack([crop_resize(image, box, size=size, interpolation=interpolation) for image in images])


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Stack pictures of one width, one below the other."""
    sheet = Image.new("RGB", (pictures[0].width, sum(picture.height for picture in pictures)), (255, 255, 255))
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet
