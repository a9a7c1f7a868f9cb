"""The set predictor: its size by the published counts, and what it can and cannot see."""

import dataclasses

import pytest
import torch
from torch import Tensor

from featcache.errors import ConfigError
from featcache.networks.set_predictor import SetPredictor
from featcache.networks.settings import SetPredictorSettings
from featcache.training.generators import seeded_torch

SMALL = SetPredictorSettings(width=32, depth=2, heads=4, dropout=0.1, position_hidden=16)


def predictor(settings: SetPredictorSettings = SMALL, *, width_in: int = 12) -> SetPredictor:
    """A small one with tokens that are not zero, in evaluation mode and float64."""
    with seeded_torch(3, "predictor"):
        module = SetPredictor(settings, width_in=width_in).double()
        for token in (module.cls_token, module.mask_token):
            torch.nn.init.normal_(token)
    return module.eval()


def batch(*, num_clips: int = 5, width_in: int = 12, numbers: int = 6) -> tuple[Tensor, Tensor]:
    """Two sets of clips and their positions."""
    with seeded_torch(4, "sets"):
        return torch.randn(2, num_clips, width_in).double(), torch.rand(2, num_clips, numbers).double()


def count(settings: SetPredictorSettings, width_in: int) -> int:
    """Parameters."""
    with torch.device("meta"):
        module = SetPredictor(settings, width_in=width_in)
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("width_in", "millions"), [(768, 1.388), (1024, 1.453), (2048, 1.715)])
def test_has_the_published_size_with_seven_numbers(width_in: int, millions: float) -> None:
    assert round(count(SetPredictorSettings(position="code7"), width_in) / 1e6, 3) == millions


def test_has_the_published_size_with_six_numbers() -> None:
    assert count(SetPredictorSettings(), 768) == 1_387_008


def test_defaults_are_the_released_ones() -> None:
    settings = SetPredictorSettings()
    assert settings.num_heads == 8
    module = SetPredictor(settings, width_in=12)
    assert not module.cls_token.any()
    assert not module.mask_token.any()
    assert {layer.eps for layer in module.modules() if isinstance(layer, torch.nn.LayerNorm)} == {1e-5}


def test_equals_plain_attention() -> None:
    module = predictor()
    features, positions = batch()
    tokens = module.project(features) + module.position(positions)
    tokens = torch.cat([module.cls_token.expand(2, 1, -1), tokens], dim=1)
    for block in module.blocks:
        inner = block.norm1(tokens)
        q, k, v = (part.reshape(2, 6, 4, 8) for part in block.attention.qkv(inner).split(32, dim=-1))
        weights = (torch.einsum("bihc,bjhc->bhij", q, k) / 8**0.5).softmax(dim=-1)
        mixed = torch.einsum("bhij,bjhc->bihc", weights, v).reshape(2, 6, 32)
        tokens = tokens + block.attention.out(mixed)
        tokens = tokens + block.mlp(block.norm2(tokens))
    wanted = module.norm(tokens)
    output = module(features, positions)
    torch.testing.assert_close(output.summary, wanted[:, 0])
    torch.testing.assert_close(output.clips, wanted[:, 1:])


def test_order_of_clips_does_not_matter() -> None:
    module = predictor()
    features, positions = batch()
    order = torch.tensor([3, 1, 4, 0, 2])
    straight, permuted = module(features, positions), module(features[:, order], positions[:, order])
    torch.testing.assert_close(permuted.summary, straight.summary)
    torch.testing.assert_close(permuted.clips, straight.clips[:, order])


def test_a_masked_clip_is_known_by_its_position_alone() -> None:
    module = predictor()
    features, positions = batch()
    masked = torch.zeros(2, 5, dtype=torch.bool)
    masked[:, 1] = True
    other = features.clone()
    other[:, 1] = 7.0
    assert torch.equal(module(features, positions, masked=masked).clips, module(other, positions, masked=masked).clips)
    moved = positions.clone()
    moved[:, 1] += 0.5
    assert not torch.allclose(
        module(features, positions, masked=masked).clips[:, 1], module(features, moved, masked=masked).clips[:, 1]
    )


def test_padding_changes_nothing() -> None:
    module = predictor()
    features, positions = batch()
    present = torch.tensor([[True] * 5, [True, True, True, False, False]])
    output = module(features, positions, present=present)
    alone = module(features[1:, :3], positions[1:, :3])
    torch.testing.assert_close(output.summary[1:], alone.summary)
    torch.testing.assert_close(output.clips[1:, :3], alone.clips)
    torch.testing.assert_close(output.summary[:1], module(features[:1], positions[:1]).summary)


def test_takes_stored_half_precision() -> None:
    module = predictor().float()
    features, positions = batch()
    half = features.half()
    assert torch.equal(module(half, positions.float()).summary, module(half.float(), positions.float()).summary)


def test_times_are_not_rounded_under_bfloat16() -> None:
    module = predictor().float()
    features = torch.zeros(1, 2, 12)
    positions = torch.tensor([[[0, 0, 1, 1, 0.9975, 1.0], [0, 0, 1, 1, 0.9985, 1.0]]])  # 0.12 s apart, of 120 s
    seen: list[Tensor] = []
    module.blocks[0].register_forward_pre_hook(lambda block, given: seen.append(given[0]))  # the tokens
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module(features, positions)
    module(features, positions)
    lower, exact = (tokens[0, 1] - tokens[0, 2] for tokens in seen)
    torch.testing.assert_close(lower.float(), exact, rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize(("width_in", "numbers", "sentence"), [(13, 6, "13 channels"), (12, 7, "7 numbers")])
def test_refuses_other_widths(width_in: int, numbers: int, sentence: str) -> None:
    features, positions = batch(width_in=width_in, numbers=numbers)
    with pytest.raises(ConfigError, match=sentence):
        predictor()(features, positions)


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 100), ("width", 0), ("depth", 0), ("heads", 3), ("mlp_ratio", 0.0), ("dropout", 1.0), ("position", "?")],
)
def test_refuses_impossible_shapes(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=r"^predictor\."):
        dataclasses.replace(SetPredictorSettings(), **{field: value})  # type: ignore[arg-type]
