"""Classifiers out of class names against the libraries' own logits, and files of ViFi-CLIP."""

import dataclasses

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from transformers import XCLIPConfig, XCLIPModel

from featcache.backbones import build_backbone, xclip
from featcache.backbones.zero_shot import is_zero_shot, words_of, zero_shot
from featcache.data.transforms import normalise
from featcache.errors import WeightsError
from featcache.methods.distill.live import LiveTeacher, read_live
from tests.tiny_clip import both_towers, known_to_open_clip

ARCHITECTURE = "tiny-clip-for-classes"
CLIP = f"open_clip/{ARCHITECTURE}:openai"
CLASSES = ("ApplyEyeMakeup", "brush_hair", "walk")
SENTENCES = ("a video of apply eye makeup", "a video of brush hair", "a video of walk")


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    """Teach open_clip a small architecture with a tag, and its own tokeniser's vocabulary."""
    with known_to_open_clip(ARCHITECTURE, tmp_path_factory.mktemp("architectures")):
        yield


@pytest.fixture(scope="module")
def whole(tiny):
    """open_clip's own model, both towers."""
    return both_towers(ARCHITECTURE)


def clips_of(num_frames, size, *, key=0):
    generator = torch.Generator().manual_seed(key)
    return torch.randint(0, 256, (2, num_frames, 3, size, size), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def test_clip_averages_frames_before_it_compares(whole, tmp_path):
    save_file(whole.state_dict(), tmp_path / "both.safetensors")
    classifier = zero_shot(CLIP, str(tmp_path / "both.safetensors"), classes=CLASSES, prompt="a video of {}")
    clips = clips_of(5, 32)
    pixels = normalise(clips, mean=classifier.card.mean, std=classifier.card.std)
    vectors = whole.encode_image(pixels.flatten(0, 1)).unflatten(0, (2, 5)).mean(1)
    texts = whole.encode_text(open_clip.get_tokenizer(ARCHITECTURE)(list(SENTENCES)))
    cosines = torch.nn.functional.cosine_similarity(vectors[:, None], texts[None], dim=2)
    torch.testing.assert_close(classifier(clips), whole.logit_scale.exp() * cosines, atol=1e-4, rtol=1e-4)
    assert classifier.classes == CLASSES
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


@torch.no_grad()
def test_a_file_of_vifi_clip_is_the_same_model(whole, tmp_path, monkeypatch):
    """Its towers under other names, its prompts beside them, and the words from CLIP's own file."""
    state = whole.state_dict()
    published = tmp_path / f"{ARCHITECTURE}.openai.safetensors"
    save_file(state, published)
    monkeypatch.setenv("FEATCACHE_WEIGHTS", str(tmp_path))
    text = ("transformer.", "positional_embedding", "ln_final.", "text_projection")
    renamed = {f"module.image_encoder.{key[7:]}": value for key, value in state.items() if key.startswith("visual.")}
    renamed |= {f"module.text_encoder.{key}": value for key, value in state.items() if key.startswith(text)}
    renamed |= {"module.logit_scale": state["logit_scale"]}
    renamed |= {"module.prompt_learner.complete_text_embeddings": torch.zeros(2, 77, 16)}
    torch.save({"model": renamed}, tmp_path / "vifi.pth")
    clips = clips_of(3, 32)
    mine, theirs = (zero_shot(CLIP, str(path), classes=CLASSES)(clips) for path in (tmp_path / "vifi.pth", published))
    assert torch.equal(mine, theirs)
    features = build_backbone(CLIP, weights=str(tmp_path / "vifi.pth"))
    assert features.weights_hash == build_backbone(CLIP, weights=str(published)).weights_hash
    published.unlink()
    with pytest.raises(WeightsError):
        zero_shot(CLIP, str(tmp_path / "vifi.pth"), classes=CLASSES)


VISION = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": 16,
    "image_size": 64,
}
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """X-CLIP, narrow and for frames of 64 pixels, with random biases too, and its file."""
    monkeypatch.setattr(xclip, "whole_config", lambda: XCLIPConfig(vision_config=VISION, text_config=TEXT))
    torch.manual_seed(0)
    network = XCLIPModel(xclip.whole_config()).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.nn.init.constant_(network.logit_scale, 3.0)
    path = tmp_path / "model.safetensors"
    save_file({**network.state_dict(), xclip.COUNTERS[0]: torch.arange(17).unsqueeze(0)}, path)
    return network, path


@torch.no_grad()
def test_xclip_says_what_the_library_says(small):
    network, path = small
    classifier = zero_shot("xclip-b16", str(path), classes=CLASSES, prompt="a video of {}")
    clips = clips_of(8, 64)
    pixels = normalise(clips, mean=classifier.card.mean, std=classifier.card.std)
    tokens = open_clip.SimpleTokenizer(context_length=77)(list(SENTENCES))
    expected = network(input_ids=tokens, pixel_values=pixels).logits_per_video
    torch.testing.assert_close(classifier(clips), expected, atol=1e-4, rtol=1e-3)
    assert expected.std(dim=1).min() > 0.05


def test_a_foundation_model_teaches(small):
    _, path = small
    name = f"xclip-b16={path}"
    ready = read_live(name, classes=CLASSES, prompt="{}", device=torch.device("cpu"))
    about = {"name": name, "num_frames": 8, "device": torch.device("cpu")}
    ready = dataclasses.replace(ready, crop=dataclasses.replace(ready.crop, size=64))
    teacher = LiveTeacher(ready, classes=CLASSES, **about)
    swapped = LiveTeacher(ready, classes=CLASSES[::-1], **about)
    clips = {teacher.crop: clips_of(8, 64)}
    with torch.no_grad():
        said = teacher.logits((0, 1), clips)
        assert torch.equal(swapped.logits((0, 1), clips), said.flip(1))
    assert (said.shape, teacher.macs > 0) == ((2, 3), True)


def test_words_of_class_names():
    assert words_of("ApplyEyeMakeup") == words_of("apply_eye_makeup") == "apply eye makeup"
    assert words_of("pan_left") == "pan left"
    assert words_of("YoYo") == "yo yo"
    assert [is_zero_shot(name) for name in ("clip-b16", CLIP, "xclip-b16", "i3d")] == [True, True, True, False]
