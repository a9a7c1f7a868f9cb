"""The text towers of open_clip, for search: they map texts into the joint space of the layer ``proj``.

A tower comes from the same file as the image tower: its tensors are those outside ``visual.``.
"""

from collections.abc import Sequence

import open_clip
import torch
from open_clip.model import _build_text_tower, convert_to_custom_text_state_dict
from torch import Tensor, nn

from featcache.backbones.clip import find_weights, parse_name, read_clip
from featcache.backbones.weights import freeze, load_strict, seeded_init
from featcache.errors import FeatcacheError, WeightsError

_PREFIX = "text."
_SIGLIP = "siglip"  # architectures whose tokeniser open_clip knows by their name


class ClipText:
    """A frozen text tower.

    Attributes:
        name: Registry name of the image tower to which it belongs.
        text: The tower.
    """

    def __init__(self, text: nn.Module, *, name: str, architecture: str) -> None:
        self.name = name
        self.text = freeze(text)
        self._tokenise = open_clip.get_tokenizer(architecture)
        self._device = torch.device("cpu")

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Vectors in the joint space, float32 [len(texts), joint], on the CPU, not normalised.

        A text longer than the tower's context (77 tokens for CLIP) is cut, as in training.
        """
        vectors: Tensor = self.text(self._tokenise(list(texts)).to(self._device))
        return vectors.float().cpu()

    def to(self, device: str) -> "ClipText":
        """Move the tower to a device; returns itself."""
        self._device = torch.device(device)
        self.text.to(self._device)
        return self


def build_text(name: str, weights: str) -> ClipText:
    """Build the text tower of ``clip-*`` or ``open_clip/<arch>:<tag>``.

    Args:
        name: Registry name of the image tower.
        weights: Weights of the image tower: ``default``, ``random`` (seeded by the name) or a file.

    Raises:
        FeatcacheError: The tower is a language model of the hub or has its tokeniser there.
        WeightsError: The weights cannot be found, hold no text tower or do not fit.
    """
    clip = parse_name(name)
    config = open_clip.get_model_config(clip.architecture)
    about = config["text_cfg"]
    if about.get("hf_model_name") or about.get("hf_tokenizer_name") or _SIGLIP in clip.architecture.lower():
        raise FeatcacheError(
            f"the text tower of {name!r} is not CLIP's own but needs a model or tokeniser of the hub, which is not "
            "supported; search by --video, or extract with a CLIP backbone such as clip-b16"
        )
    path = find_weights(name, clip, weights)
    with seeded_init(f"{name} text"):
        text = _build_text_tower(config["embed_dim"], {**about, "output_tokens": False}, quick_gelu=clip.quick_gelu)
    if path is not None:
        state = convert_to_custom_text_state_dict(_with_words(read_clip(path), name))
        tower = {key.removeprefix(_PREFIX): tensor for key, tensor in state.items() if key.startswith(_PREFIX)}
        if not tower:
            raise WeightsError(
                f"weights file {path} of {name} holds the image tower alone; for search by text pass "
                "--weights with the file that the publisher gives, which holds both towers"
            )
        load_strict(text, tower, source=f"text tower of weights file {path} of {name}")
    return ClipText(text, name=name, architecture=clip.architecture)


def _with_words(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of a file of CLIP; a text tower without embeddings of words gets those of the published weights.

    Raises:
        WeightsError: They are needed, and the published weights cannot be found.
    """
    words = "token_embedding.weight"
    if words in state or "ln_final.weight" not in state:
        return state
    published = find_weights(name, parse_name(name), "default")
    assert published is not None, "the default is a file"
    return {**state, words: read_clip(published)[words]}
