"""A small CLIP with a tag, which open_clip knows as long as a test needs it."""

import json
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

NOTHING: Mapping[str, Any] = {}


@contextmanager
def known_to_open_clip(
    name: str,
    folder: Path,
    *,
    embed_dim: int = 12,
    vision: Mapping[str, Any] = NOTHING,
    text: Mapping[str, Any] = NOTHING,
    tag: Mapping[str, Any] = NOTHING,
):
    """Teach open_clip an architecture with the tag ``openai``.

    Args:
        name: Name of the architecture.
        folder: Where its file is written.
        embed_dim: Width of the space that both towers share.
        vision: Settings of the vision tower that differ from two narrow layers at 32 pixels.
        text: Settings of the text tower that differ from one narrow layer with the own tokeniser's vocabulary.
        tag: What its tag says beside ``quick_gelu``.
    """
    seen = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8, **vision}
    read = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1, **text}
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"embed_dim": embed_dim, "vision_cfg": seen, "text_cfg": read}))
    open_clip.add_model_config(file)
    with pytest.MonkeyPatch.context() as patch:
        tags = {"openai": {"quick_gelu": True, **tag}}
        patch.setattr(open_clip.pretrained, "_PRETRAINED", {**open_clip.pretrained._PRETRAINED, name: tags})
        yield


def both_towers(name: str) -> torch.nn.Module:
    """open_clip's own model of that architecture, with random weights that are always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return open_clip.create_model(name, force_quick_gelu=True).eval()
