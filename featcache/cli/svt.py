"""``train svt``: a video transformer out of unlabelled videos."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.cli.console import Quiet, bars, print_result
from featcache.cli.source import Dataset, Root, Source, SplitColumn, Subset
from featcache.cli.train import BatchSize, Device, Epochs, Json, OutFolder, Seeds, Set

if TYPE_CHECKING:
    from featcache.methods.svt.settings import SvtSettings


def svt(
    source: Source = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings to start from, e.g. `configs/svt/k400_vitb.yaml`; flags come on top.")
    ] = None,
    dataset: Dataset = None,
    root: Root = None,
    split_column: SplitColumn = None,
    subset: Subset = None,
    size: Annotated[str | None, typer.Option(help="`tiny`, `small` or `base`.  [default: base]")] = None,
    init: Annotated[
        str | None, typer.Option(help="Weights of an image ViT of that size to start from, e.g. DINO's.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode.  [default: one a core]")] = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    seed: Seeds = [],
    device: Device = "auto",
    out: OutFolder = None,
    set_: Set = [],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pre-train a video transformer end to end, from the videos: what would another view of this one say?"""
    from featcache.config import apply_overrides, parse
    from featcache.methods.svt.settings import SvtSettings

    data = {} if config is None else _read(config)
    training = data.get("training", {})
    auto = device == "auto"  # also what an option is that was not given
    loop = {"epochs": epochs, "batch_size": batch_size, "seeds": seed or None, "device": None if auto else device}
    training |= _given(loop)
    if source is not None or dataset is not None:
        data |= {"source": source, "dataset": dataset, "root": None}
    data |= _given({"root": root, "size": size, "workers": workers, "out": out})
    data |= {} if init is None else {"init": {"start": "image", "weights": init}}
    selection = data.get("selection", {}) | _given({"split_column": split_column, "subset": subset})
    data |= {"selection": selection, "training": training}
    run_svt(parse(SvtSettings, apply_overrides(data, set_)), as_json=as_json)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: `featcache train svt --dataset kinetics400 --root /data/k400 --size base`")(svt)


def _read(config: Path) -> dict[str, Any]:
    """What a file of ``train svt`` says."""
    from featcache.commands.registry import load
    from featcache.config import to_dict
    from featcache.errors import ConfigError
    from featcache.methods.svt.settings import SvtSettings
    from featcache.shipped import find_config

    settings = load(find_config(config))
    if not isinstance(settings, SvtSettings):
        name: str = settings.command  # type: ignore[attr-defined]
        raise ConfigError(f"{str(config)!r} is of the command {name!r}; carry it out with `featcache run {config}`")
    return to_dict(settings)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def run_svt(settings: "SvtSettings", *, as_json: bool = False) -> None:
    """Carry out ``train svt`` and print its summary."""
    from featcache.methods.svt.run import pretrain_svt
    from featcache.training.world import find_world

    is_first = find_world().is_first
    with bars(quiet=not is_first) as drawn:
        result = pretrain_svt(settings, on_stage=drawn.update)
    if is_first:
        print_result(result, as_json=as_json)


RUNNERS = {"train-svt": run_svt}
