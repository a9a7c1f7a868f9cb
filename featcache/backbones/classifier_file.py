"""A fine-tuned classifier as one file: network, head, class names, and how a video is to be shown to it.

``classifier.safetensors`` holds the tensors ``network.*`` and ``head.*``; the rest is JSON in its metadata. It is a
weights file of its backbone as well: :func:`featcache.backbones.weights.read_state_dict` gives the network alone.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from safetensors import SafetensorError, safe_open

from featcache.config import Settings, parse, to_dict
from featcache.errors import ConfigError, WeightsError
from featcache.recipes import FeatureRecipe, SamplingRecipe

if TYPE_CHECKING:
    from torch import Tensor

NAME = "classifier.safetensors"
"""Name of the file in the folder of a seed."""
NETWORK, HEAD = "network.", "head."
_FORMAT = "featcache-classifier"


class ClassifierFacts(Settings):
    """What belongs to a classifier beside its tensors."""

    backbone: str
    """Registry name of its backbone."""
    classes: tuple[str, ...]
    """Class names in the order of the head's outputs."""
    feature: FeatureRecipe
    """Recipe of the vector that the head reads."""
    views: SamplingRecipe
    """Recipe of the views of a video that is scored."""
    average: Literal["softmax", "logits"]
    """Quantity that is averaged over the views: class probabilities, or logits."""
    precision: Literal["float32", "bfloat16"]
    """Dtype of the forward pass."""
    clips_at_once: int = Field(ge=1)
    """Number of clips per forward pass, on which the last bits of scores depend."""
    label: str
    """Label column of the classes."""
    seed: int
    """Seed of the run."""

    def metadata(self) -> dict[str, Any]:
        """JSON-ready metadata of the file."""
        return {"format": _FORMAT, "version": 1, "model": to_dict(self)}


def is_classifier(path: Path) -> bool:
    """Whether a weights file is a whole classifier; only its header is read."""
    return read_metadata(path).get("format") == _FORMAT


def read_facts(path: Path) -> ClassifierFacts:
    """What belongs to a classifier beside its tensors.

    Raises:
        WeightsError: The file is no classifier, was written by a newer featcache, or is damaged.
    """
    data = read_metadata(path)
    if data.get("format") != _FORMAT:
        raise WeightsError(f"{path} is no fine-tuned classifier; give the {NAME} of a `featcache train finetune`")
    if data.get("version") != 1:
        raise WeightsError(f"{path} was written by a newer featcache; upgrade to read it")
    model = data.get("model")
    try:
        return parse(ClassifierFacts, model if isinstance(model, dict) else {})
    except ConfigError as error:
        raise WeightsError(f"the metadata of {path} is damaged ({error}); restore the file, or train again") from error


def read_head(path: Path) -> dict[str, "Tensor"]:
    """The tensors of the head: ``weight`` [C, D] and ``bias`` [C].

    Raises:
        WeightsError: They are missing or cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(f"{HEAD}{name}") for name in ("weight", "bias")}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"the head of {path} cannot be read ({error}); restore the file, or train again") from error


def network_part(state: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """The tensors of the backbone's network, under its own names, of all tensors of a classifier."""
    return {name.removeprefix(NETWORK): tensor for name, tensor in state.items() if name.startswith(NETWORK)}


def find_classifier(given: Path, *, seed: int | None = None) -> Path:
    """The classifier that a user means: the file itself, or that of a run or of one of its seeds.

    Args:
        given: A classifier, the folder of a seed, or the folder of a run.
        seed: Which seed of a run; ``None``: its only one.

    Raises:
        ConfigError: There is none, there are several, or none of this seed.
        WeightsError: The file is no classifier.
    """
    if (given / NAME).is_file():
        given = given / NAME
    if given.is_file():
        if seed is not None and (own := read_facts(given).seed) != seed:
            raise ConfigError(
                f"{given} is of seed {own}, not {seed}; leave the seed out, or give the folder of the run"
            )
        return given
    found = {path.parent.name: path for path in sorted(given.glob(f"seed-*/{NAME}"))}
    if not found:
        raise ConfigError(
            f"{given} holds no {NAME}; give the folder of a `featcache train finetune`, and run it again if it is "
            "unfinished or of an earlier featcache"
        )
    if seed is None:
        return next(iter(found.values())) if len(found) == 1 else _refuse(f"{given} has several", given, found)
    name = f"seed-{seed}"
    return found[name] if name in found else _refuse(f"{given} has no {name}", given, found)


def _refuse(what: str, given: Path, found: Iterable[str]) -> Path:
    names = ", ".join(found)
    raise ConfigError(f"{what}: it has {names}; name one, e.g. {given / next(iter(found))}")


def read_metadata(path: Path) -> dict[str, Any]:
    """What featcache wrote into the header of a safetensors file; empty if it wrote nothing."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, "np") as file:
            data = json.loads((file.metadata() or {}).get("featcache", "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError):
        return {}  # reading its tensors says what is wrong
    return data if isinstance(data, dict) else {}
