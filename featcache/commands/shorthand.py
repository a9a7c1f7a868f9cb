"""Translates words of the command line that are not settings themselves, e.g. ``--backbone`` or ``--linear``.

Each function takes the settings of a file, the words by their names, and ``lay``, which applies flags and ``key=value``
assignments to the mapping that it is given; it returns the settings as a mapping.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featcache.backbones.classifier_file import read_facts
from featcache.backbones.from_file import name_of
from featcache.backbones.registry import classifier_of
from featcache.backbones.run_file import find_run_file
from featcache.config import read_yaml
from featcache.errors import ConfigError, unknown_name

Data = dict[str, Any]
Words = Mapping[str, Any]
Lay = Callable[[Data], Data]

EXAMPLE_ROOT = "ucf101=/data/ucf101"
EXAMPLE_WEIGHTS = "svt-b=SVT_K400.pth"


def extract(data: Data, words: Words, lay: Lay) -> Data:
    """``extract``: every layer of every backbone is an array; whatever is given overrides a preset.

    Raises:
        ConfigError: The numbers of weights and backbones differ, a word lacks its backbone, or there is no backbone.
        UnknownNameError: There is no such preset.
    """
    from featcache.extract.presets import with_preset

    backbones, weights, layers = (list(words.get(name, ())) for name in ("backbone", "weights", "layer"))
    if len(weights) > 1 and len(weights) != len(backbones):
        raise ConfigError(f"{len(weights)} --weights for {len(backbones)} --backbone; give one, or one per backbone")
    shared = {name: words[name] for name in ("output", "name", "grid", "channels", "precision") if name in words}
    if not backbones and (shared or layers or weights):
        name = "layer" if layers else next(iter(shared), "weights")
        raise ConfigError(f"--{name} belongs to --backbone, and none is given; write {name}=... inside --feature")
    listed: list[dict[str, Any]] = [
        {**network_of(name, weights[index % len(weights)] if weights else None), **one, **shared}
        for index, name in enumerate(backbones)
        for one in ([{"layer": layer} for layer in layers] or [{}])
    ]
    listed += [_array(text) for text in words.get("feature", ())]
    made = lay(data | ({"features": listed} if listed else {}))
    if not made.get("features"):
        raise ConfigError("no backbone given; add --backbone NAME (`featcache backbones` lists them)")
    return with_preset(words["preset"], made) if "preset" in words else made


def _array(text: str) -> dict[str, Any]:
    """Parse one ``--feature``."""
    pairs = [part.partition("=") for part in text.split(",")]
    usage = f"cannot read --feature {text!r}; write key=value pairs, e.g. backbone=i3d,output=map,grid=7"
    if any(not equals for _, equals, _ in pairs):
        raise ConfigError(usage)
    try:
        array = {key.strip(): read_yaml(value) for key, _, value in pairs}
    except ConfigError as error:
        raise ConfigError(usage) from error
    if not isinstance(array.get("backbone"), str):
        return array
    weights = array.get("weights")
    return {**array, **network_of(array["backbone"], None if weights is None else str(weights))}


def network_of(given: str, weights: str | None = None) -> dict[str, str]:
    """The settings of a network that ``--backbone`` names.

    Args:
        given: A name, a function of a Python file, or a fine-tuned run, which stands for its backbone and weights.
        weights: The weights that are asked for, if any.

    Returns:
        ``backbone``, and ``weights`` if there are any.

    Raises:
        ConfigError: A run has no classifier, or several, or is given other weights.
    """
    path = classifier_of(given)
    if path is None:
        return {"backbone": name_of(given), **({} if weights is None else {"weights": weights})}
    if weights not in (None, "default"):
        raise ConfigError(f"--weights {weights} is given beside the run {given}, which has its own; leave it out")
    return {"backbone": read_facts(path).backbone, "weights": str(path)}


def classify(data: Data, words: Words, lay: Lay) -> Data:
    """``classify``: ``--model`` may be a function of a Python file."""
    made = lay(data)
    return {**made, "model": name_of(made["model"])} if isinstance(made.get("model"), str) else made


def import_(data: Data, words: Words, lay: Lay) -> Data:
    """``import``: flags override a recipe file; a description of the weights is recorded as declared.

    Raises:
        ConfigError: No backbone is named.
        UnknownNameError: There is no such format.
    """
    from featcache.exchange.listing import RECIPE, read_recipe
    from featcache.exchange.settings import IMPORT_FORMATS

    if isinstance(name := lay(data).get("format"), str) and name not in IMPORT_FORMATS:
        raise unknown_name("format", name, IMPORT_FORMATS)  # before what follows from it
    recipe = words.get("recipe")
    if recipe is None and "backbone" not in lay(data).get("feature", {}):
        found = Path(str(lay(data).get("source"))) / RECIPE
        recipe = found if found.is_file() else None
    known = read_recipe(Path(recipe)) if recipe is not None else {}
    feature = {**data.get("feature", {}), **known.get("feature", {})}
    if (weights := words.get("weights")) is not None:
        is_plain = weights == "unknown" or weights.startswith(("declared:", "sha256:"))
        feature["weights_hash"] = weights if is_plain else f"declared:{weights}"
    sampling = {**data.get("sampling", {}), **known.get("sampling", {})}
    made = lay({**data, **known.get("plan", {}), "feature": feature, "sampling": sampling})
    if "backbone" not in made["feature"]:
        raise ConfigError("nothing says who computed the arrays; add --backbone NAME, or --recipe FILE")
    return made


def tmm(data: Data, words: Words, lay: Lay) -> Data:
    """``train advise`` and ``train tmm``: ``--preset`` is a module's size, and ``--init none`` is from scratch.

    Raises:
        UnknownNameError: There is no such preset.
    """
    import dataclasses

    from featcache.networks.settings import PRESETS

    if (preset := words.get("preset")) is not None:
        if preset not in PRESETS:
            raise unknown_name("preset", preset, PRESETS)
        data = {**data, "tmm": dataclasses.asdict(PRESETS[preset])}
    made = lay(data)
    return {**made, "init": None} if made.get("init") == "none" else made


def svt(data: Data, words: Words, lay: Lay) -> Data:
    """``train svt``: ``--init`` is the file of an image network."""
    init = {} if "init" not in words else {"init": {"start": "image", "weights": words["init"]}}
    return lay(data | init)


def network(data: Data, words: Words, lay: Lay) -> Data:
    """``--backbone`` may be a function of a Python file, or a fine-tuned run.

    Raises:
        ConfigError: No backbone is named.
    """
    made = lay(data)
    if "backbone" in words:
        own = made.get("weights", "default")
        made |= network_of(words["backbone"], None if own == "default" else own)
    if made.get("backbone") is None:
        raise ConfigError("no backbone is given; name one with --backbone, see `featcache backbones`")
    return made


def pretext(data: Data, words: Words, lay: Lay) -> Data:
    """``train pretext``: with ``--dataset``, what comes first is the task; ``--complexity`` is one of its settings.

    Raises:
        ConfigError: No backbone is named.
    """
    made = network(_with_complexity(data, words), words, lay)
    task, first = made.get("task", {}), made.get("source")
    if made.get("dataset") is not None and first is not None and "name" not in task and not Path(first).exists():
        made = {**made, "source": None, "task": {**task, "name": str(first)}}
    return made


def leaks(data: Data, words: Words, lay: Lay) -> Data:
    """``audit leaks``: what comes first is the task; ``--complexity`` is one of its settings.

    Raises:
        ConfigError: No task is named.
    """
    from featcache.methods.pretext.task import TASKS

    if "task" in words:
        data = {**data, "task": {**data.get("task", {}), "name": words["task"]}}
    made = lay(_with_complexity(data, words))
    if "name" not in made.get("task", {}):
        raise ConfigError(f"no task is given; name one of: {', '.join(TASKS.names())}")
    return made


def _with_complexity(data: Data, words: Words) -> Data:
    if "complexity" not in words:
        return data
    return {**data, "task": {**data.get("task", {}), "complexity": words["complexity"]}}


def finetune(data: Data, words: Words, lay: Lay) -> Data:
    """``train finetune``: ``--linear`` is SVT's linear protocol.

    Raises:
        ConfigError: No backbone is named.
    """
    from featcache.config import to_dict
    from featcache.methods.finetune.settings import LINEAR

    if words.get("linear"):
        data = {**data, "frozen": True, "head_dropout": 0.0, "training": to_dict(LINEAR)}
    if words.get("flip") is False:
        data = {**data, "clips": {**data.get("clips", {}), "flip_probability": 0.0}}
    return network(data, words, lay)


def distill(data: Data, words: Words, lay: Lay) -> Data:
    """``train distill``: ``--student NAME``, ``NAME=WEIGHTS`` or the folder of a run, and teachers as they are named.

    Raises:
        ConfigError: No student is named, or a run has several classifiers.
    """
    if words.get("flip") is False:
        data = {**data, "clips": {**data.get("clips", {}), "flip_probability": 0.0}}
    made = lay(data)
    if "student" in words:
        made = {**made, "students": [_student(text) for text in words["student"]]}
    if not made.get("students"):
        raise ConfigError("no student is given; name one with --student, e.g. --student shufflenet3d")
    return made


def _student(text: str) -> dict[str, str]:
    """One ``--student``."""
    name, is_both, weights = text.partition("=")
    return network_of(name, weights) if is_both else network_of(text)


def attention(data: Data, words: Words, lay: Lay) -> Data:
    """``figure attention``: networks by the name of their row; repeated names are numbered."""
    if "backbone" not in words:
        return lay(data)
    first = {"weights": "default", **network_of(words["backbone"], words.get("weights"))}
    backbone, weights = first["backbone"], first["weights"]
    given = [(backbone, weights)]
    for other in words.get("against", ()):
        name, is_both, file = other.partition("=")
        is_weights = other == "random" or Path(other).suffix in (".pth", ".pt", ".safetensors")
        given.append((name, file) if is_both else (backbone, other) if is_weights else (name_of(other), "default"))
    networks: dict[str, dict[str, str]] = {}
    for name, file in given:
        row = name if file == "default" else f"{name} {Path(file).stem}"
        place = sum(known.partition(" #")[0] == row for known in networks) + 1
        networks[row if place == 1 else f"{row} #{place}"] = {"backbone": name, "weights": file}
    return lay({**data, "networks": networks})


def cka(data: Data, words: Words, lay: Lay) -> Data:
    """``evaluate cka``: networks, followed by the source of the videos unless a data set or a file names it.

    Raises:
        ConfigError: There are more networks than two, no videos, or as many weights as no network needs.
    """
    made = lay(data)
    given, weights = list(words.get("networks", ())), list(words.get("weights", ()))
    if made.get("dataset") is None and made.get("source") is None and given:
        if _is_network(given[-1]):
            raise ConfigError(
                f"{given[-1]} is a network and no videos are named; give a folder or listing of videos after it, or "
                "--dataset NAME with --root DIR"
            )
        made["source"] = given.pop()
    if not given and (weights or "networks" not in made):
        raise ConfigError("no network is named; give a run, one of its weights files, or a backbone with --weights")
    if len(given) > 2:
        raise ConfigError(f"{', '.join(given)} are {len(given)} networks; CKA compares one with itself, or two")
    if len(weights) > 1 and len(weights) != len(given):
        raise ConfigError(f"{len(weights)} --weights for {len(given)} networks; give one, or one for each")
    if given:
        each = [weights[place % len(weights)] if weights else None for place in range(len(given))]
        made["networks"] = [_compared(name, own) for name, own in zip(given, each, strict=True)]
    return made


def _is_network(given: str) -> bool:
    """Whether it can only be a network: a backbone, or a folder or file of a run."""
    try:
        return find_run_file(given) is not None or not Path(given).exists()
    except ConfigError:
        return False  # a folder without a network may hold videos


def _compared(given: str, weights: str | None) -> Data:
    run = find_run_file(given)
    if run is None and Path(given).is_file() and Path(given).suffix != ".py":
        raise ConfigError(f"{given} does not say whose weights it holds; name its backbone: BACKBONE --weights {given}")
    if run is None:
        return {"backbone": name_of(given), **({} if weights is None else {"weights": weights})}
    if weights not in (None, "default"):
        raise ConfigError(f"--weights {weights} is given beside {given}, which has its own; leave it out")
    return {"backbone": run.backbone, "weights": str(run.path)}


def reproduce(data: Data, words: Words, lay: Lay) -> Data:
    """``reproduce``: ``--root NAME=DIR``, and ``--weights NAME=FILE`` or a folder.

    Raises:
        ConfigError: A word is not ``NAME=PATH``, or two folders of weights are given.
    """
    from featcache.commands.places import read_places

    files, folder = split_weights(words.get("weights", ()))
    roots = read_places(words.get("root", ()), flag="--root", example=EXAMPLE_ROOT)
    places = {"roots": {**data.get("roots", {}), **roots}, "weights": {**data.get("weights", {}), **files}}
    return lay({**data, **places, **({"weights_folder": folder} if folder is not None else {})})


def split_weights(words: Sequence[str]) -> tuple[dict[str, str], str | None]:
    """Tell ``--weights NAME=FILE`` from ``--weights FOLDER``: files by backbone, and the folder if there is one.

    Raises:
        ConfigError: Two folders are given.
    """
    from featcache.commands.places import read_places

    folders = [word for word in words if "=" not in word]
    if len(folders) > 1:
        raise ConfigError(f"--weights names two folders, {folders[0]!r} and {folders[1]!r}; write NAME=FILE for others")
    files = read_places([word for word in words if "=" in word], flag="--weights", example=EXAMPLE_WEIGHTS)
    return files, folders[0] if folders else None
