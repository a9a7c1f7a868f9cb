"""The classifier: features are those of extraction, and gradients go where they should."""

import numpy as np
import pytest
import torch

from featcache.backbones import build_backbone
from featcache.backbones.outputs import record_spec
from featcache.backbones.weights import write_weights
from featcache.data.decoding.clips import CropSize
from featcache.errors import ConfigError
from featcache.extract.encode import BoundFeature, encode_rows
from featcache.methods.finetune.module import build_classifier
from featcache.methods.finetune.settings import FinetuneClipSettings
from tests.methods.finetune.helpers import settings

CPU = torch.device("cpu")


def clips(batch=3, num_frames=2, side=32):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, num_frames, 3, side, side), generator=generator, dtype=torch.uint8)


def classifier(**changes):
    return build_classifier(settings("videos", "unused", **changes), num_classes=5, seed=0, device=CPU)


@pytest.mark.parametrize(
    ("backbone", "size", "output"),
    [("svt-tiny", 32, None), ("svt-tiny", 32, "mean"), ("timm/test_resnet", 64, None), ("timm/test_vit", 160, None)],
)
def test_the_head_reads_what_extraction_stores(backbone, size, output):
    module = classifier(backbone=backbone, input_size=size, output=output, layer="last").eval()
    pixels = clips(side=size)
    built = build_backbone(backbone, weights="random")
    record = record_spec(built, module.recipe, num_frames=2, layout="clips")
    feature = BoundFeature(name="x", recipe=module.recipe, record=record, backbone=built)
    stored = encode_rows(
        [feature], {CropSize(size=size, interpolation=module.recipe.interpolation): pixels.numpy()},
        encode_batch=3, device="cpu",
    )["x"]  # fmt: skip
    with torch.no_grad():
        np.testing.assert_allclose(module.features(pixels).numpy(), stored, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            module(pixels).numpy(), stored @ module.head.weight.numpy().T + module.head.bias.numpy(), atol=1e-4
        )
    assert module.recipe.output == (output or ("mean" if backbone == "timm/test_resnet" else "cls"))


def test_all_is_trained_or_the_head_alone():
    for is_frozen in (False, True):
        module = classifier(backbone="timm/test_resnet", input_size=64, frozen=is_frozen, head_dropout=0.0).train()
        before = {name: tensor.clone() for name, tensor in module.network.state_dict().items()}
        module(clips(side=64)).square().sum().backward()
        assert module.head.weight.grad.any()
        touched = [parameter.grad is not None for parameter in module.network.parameters()]
        changed = [
            name for name, tensor in module.network.state_dict().items() if not torch.equal(tensor, before[name])
        ]
        assert any(touched) is not is_frozen
        assert bool(changed) is not is_frozen, "a frozen network keeps its running statistics"


def test_heads_differ_by_seed_and_repeat():
    chosen = settings("videos", "unused")
    heads = [build_classifier(chosen, num_classes=5, seed=seed, device=CPU).head.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert heads[0].std().item() == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("backbone", ["svt-tiny-slowfast", "timm/test_resnet", "timm/test_vit"])
def test_changed_weights_are_a_weights_file_of_the_same_name(backbone, tmp_path):
    size = {"timm/test_vit": 160}.get(backbone, 64)
    frames = FinetuneClipSettings(num_frames=8)
    module = classifier(backbone=backbone, input_size=size, clips=frames).eval()
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter += 0.01
    write_weights(tmp_path / "w.safetensors", module.network, facts={"seed": 0})
    again = classifier(backbone=backbone, weights=str(tmp_path / "w.safetensors"), input_size=size, clips=frames).eval()
    pixels = clips(batch=1, num_frames=8, side=size)
    with torch.no_grad():
        assert torch.equal(module.features(pixels), again.features(pixels))


@pytest.mark.parametrize("without", [torch.inference_mode, torch.no_grad])
def test_a_backbone_that_lets_no_gradient_through_is_not_said_to_be_trained(without):
    module = classifier()
    backbone = module._backbone
    backbone.encode = without()(backbone.encode)
    clips = torch.zeros(
        (1, module.num_frames, 3, module.recipe.input_size, module.recipe.input_size), dtype=torch.uint8
    )
    module.train()
    with pytest.raises(ConfigError, match=r"no gradient reaches the network of 'svt-tiny'.*--linear"):
        module(clips)
    module.eval()
    assert module(clips).shape == (1, 5)
    frozen = classifier(frozen=True)
    frozen._backbone.encode = without()(frozen._backbone.encode)
    frozen.train()
    frozen(clips).sum()
