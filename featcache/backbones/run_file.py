"""The trained network of a run, by the folder of the run or by one of its files, whatever it was trained on.

Every run that trains a backbone writes weights files that say whose they are: ``seed-N/backbone.safetensors`` (SVT:
``teacher.safetensors``), ``seed-N/classifier.safetensors`` of a fine-tuned model with its head, and
``seed-N/epoch-050.safetensors`` of the epochs that were to be kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.backbones.classifier_file import NAME as CLASSIFIER
from featcache.backbones.classifier_file import is_classifier, read_facts, read_metadata
from featcache.backbones.from_file import is_of_file
from featcache.backbones.registry import check_name
from featcache.errors import ConfigError, UnknownNameError

_EPOCHS = "epoch-"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """A weights file of a run.

    Attributes:
        path: The file.
        backbone: Registry name of the backbone whose weights it holds.
        settings: Settings of the run by dotted name, e.g. ``num_frames``; empty if the file does not say.
    """

    path: Path
    backbone: str
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The run, its seed and its epoch in a few words, e.g. ``ft-rot seed-0`` or ``rot seed-0 epoch-050``."""
        seed = self.path.resolve().parent
        words = [seed.parent.name, seed.name] if seed.name.startswith("seed-") else [seed.name]
        return " ".join([*words, *([self.path.stem] if self.path.stem.startswith(_EPOCHS) else [])])


def read_run_file(path: Path) -> RunFile | None:
    """What a weights file says of itself; ``None`` if no run of featcache has written it.

    Raises:
        WeightsError: It is a damaged classifier.
    """
    if is_classifier(path):
        return RunFile(path=path, backbone=read_facts(path).backbone, settings={})
    said = read_metadata(path)
    if not isinstance(said.get("backbone"), str):
        return None
    settings = said.get("recipe")
    return RunFile(path=path, backbone=said["backbone"], settings=settings if isinstance(settings, Mapping) else {})


def find_run_file(given: str) -> RunFile | None:
    """The file that a user means by a run, one of its seeds or a file; a backbone's name wins.

    Args:
        given: A name, a folder or a file.

    Returns:
        The file, a whole classifier where there is one; ``None`` for anything that is neither a folder nor a file of a
        run.

    Raises:
        ConfigError: The folder holds no such file, or those of several seeds.
        WeightsError: A classifier is damaged.
    """
    path = Path(given).expanduser()
    if is_of_file(given) or not path.exists():
        return None
    try:
        check_name(given)
    except UnknownNameError:
        return _of_folder(path) if path.is_dir() else read_run_file(path)
    return None


def _of_folder(folder: Path) -> RunFile:
    own = _best(folder)
    seeds = {each.name: found for each in sorted(folder.glob("seed-*")) if (found := _best(each)) is not None}
    if own is None and len(seeds) > 1:
        raise ConfigError(f"{folder} has {', '.join(seeds)}; name one, e.g. {folder / next(iter(seeds))}")
    found = own or next(iter(seeds.values()), None)
    if found is None:
        raise ConfigError(
            f"{folder} holds no trained network; give the folder of a `featcache train` run that is finished, or a "
            "weights file"
        )
    return found


def _best(folder: Path) -> RunFile | None:
    """The file of a seed: its classifier, or the network at the end of the training."""
    named = [each for each in sorted(folder.glob("*.safetensors")) if not each.name.startswith(_EPOCHS)]
    found = [each for path in named if (each := read_run_file(path)) is not None]
    return next((each for each in found if each.path.name == CLASSIFIER), found[0] if found else None)
