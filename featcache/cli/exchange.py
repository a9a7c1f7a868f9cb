"""``import`` and ``export``: arrays of others into a store, and a store into the formats of others."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.cli.console import Quiet, bars, err, out, print_facts, print_failures, print_json

if TYPE_CHECKING:
    from featcache.exchange.settings import ExportSettings, ImportSettings

Set = Annotated[list[str], typer.Option("--set", help="Any other setting by its key, e.g. `feature.grid=7`.")]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print the YAML that repeats this, and stop.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add this room's verbs."""
    app.command(
        "import",
        epilog="Example: `featcache import features/ --format npy --backbone i3d --stride 4 --clip-frames 16 --fps 30 "
        "--out stores/theirs`  \n"
        "An export comes back whole: `featcache import exported/ --format npy --out stores/again`",
    )(import_)
    app.command(
        epilog="Example: `featcache export stores/mine --format parquet --out exported/`  \n"
        "For temporal localisation: `featcache export stores/bank --format actionformer --out thumos/`"
    )(export)


def import_(
    source: Annotated[str, typer.Argument(help="A folder, a .tar shard, or a Parquet file.")],
    format_: Annotated[str, typer.Option("--format", help="`npy`, `webdataset`, `hf` or `parquet`.")],
    folder: Annotated[str, typer.Option("--out", "-o", help="The store to create, resume or extend.")],
    recipe: Annotated[
        Path | None,
        typer.Option(help="YAML with what is known: `feature`, `sampling`.  [default: the source's recipe.yaml]"),
    ] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", "-b", help="Who computed the arrays.")] = None,
    weights: Annotated[str | None, typer.Option("--weights", "-w", help="Which weights, in words.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer name.")] = None,
    output: Annotated[str | None, typer.Option(help="`cls`, `mean`, `tokens` or `map`.")] = None,
    precision: Annotated[str | None, typer.Option(help="`float16`, `float32` or `int8`.  [default: as it is]")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the array in the store.")] = None,
    listing: Annotated[str | None, typer.Option(help="CSV: `id`, `split`, `label`, timing.")] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="Paths of `npy` files, e.g. `{split}/{label}/{id}_resnet.npy`; `*` is anything in a name."),
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second.")] = None,
    stride: Annotated[float | None, typer.Option(help="Frames from one row to the next.")] = None,
    clip_frames: Annotated[float | None, typer.Option(help="Frames that a row spans.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of ids (`hf`).  [default: id]")] = None,
    array_column: Annotated[str | None, typer.Option(help="Column of arrays (`hf`).  [default: feature]")] = None,
    array_is: Annotated[
        str | None, typer.Option(help="An array is one `row`, or a whole `video` (`hf`).  [default: row]")
    ] = None,
    set_: Set = [],
    print_config: PrintConfig = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Store features that others made, bit for bit, with a recipe that says what is declared and what is not known."""
    from featcache.config import apply_overrides, parse, to_yaml
    from featcache.errors import ConfigError
    from featcache.exchange.listing import RECIPE, read_recipe
    from featcache.exchange.settings import IMPORT_FORMATS, ImportSettings, check_format

    check_format(format_, IMPORT_FORMATS)
    if recipe is None and backbone is None and (Path(source) / RECIPE).is_file():
        recipe = Path(source) / RECIPE
    known = read_recipe(recipe) if recipe is not None else {}
    if weights is not None and weights != "unknown" and not weights.startswith(("declared:", "sha256:")):
        weights = f"declared:{weights}"
    feature = {"backbone": backbone, "weights_hash": weights, "layer": layer, "output": output, "name": name}
    feature |= {"precision": precision}
    timing = {"fps": fps, "stride_frames": stride, "clip_frames": clip_frames}
    columns = {"id": id_column, "array": array_column, "array_is": array_is}
    data: dict[str, Any] = {
        "source": source,
        "format": format_,
        "out": folder,
        "listing": listing,
        "pattern": pattern,
        "feature": {**known.get("feature", {}), **_given(feature)},
        "sampling": known.get("sampling", {}),
        "timing": _given(timing),
        "columns": _given(columns),
        **known.get("plan", {}),
    }
    data = apply_overrides(data, set_)
    if "backbone" not in data["feature"]:
        raise ConfigError("nothing says who computed the arrays; add --backbone NAME, or --recipe FILE")
    settings = parse(ImportSettings, data)
    if print_config:
        out.print(to_yaml(settings), end="", markup=False)
    else:
        run_import(settings, as_json=as_json)


def export(
    store: Annotated[str, typer.Argument(help="A store.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="`parquet`, `npy`, `webdataset`, `hf`, `fiftyone`, `actionformer` or `opentad`.",
        ),
    ],
    folder: Annotated[str, typer.Option("--out", "-o", help="The folder to write: a new one, or an empty one.")],
    feature: Annotated[str | None, typer.Option(help="Name of the array, where the store has several.")] = None,
    split: Annotated[str | None, typer.Option(help="Only videos of this split.")] = None,
    video: Annotated[list[str], typer.Option(help="Only this id; repeat for several.")] = [],
    set_: Set = [],
    print_config: PrintConfig = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a feature with ids, labels, splits, times and boxes in a format that other programs read."""
    from featcache.config import apply_overrides, parse, to_yaml
    from featcache.exchange.settings import EXPORT_FORMATS, ExportSettings, check_format

    check_format(format_, EXPORT_FORMATS)
    data = {"store": store, "format": format_, "out": folder, "feature": feature, "split": split}
    settings = parse(ExportSettings, apply_overrides({**data, "videos": video or None}, set_))
    if print_config:
        out.print(to_yaml(settings), end="", markup=False)
    else:
        run_export(settings, as_json=as_json)


def run_import(settings: "ImportSettings", *, as_json: bool = False) -> None:
    """Carry out ``import`` and print its summary."""
    from featcache.exchange.importing import import_features

    with bars() as drawn:
        result = import_features(settings, on_progress=lambda done, total: drawn.update("import", done, total))
    if as_json:
        print_json(result.to_dict())
        return
    print_facts(
        {
            "store": result.store,
            "feature": f"{result.feature} ({result.dtype})",
            "videos": f"{result.videos_ok} ok, {result.videos_failed} failed, {result.videos_total} in all",
            "rows": f"{result.rows_written} written now, {result.rows_total} in all",
            "not known": ", ".join(result.unknown) or "nothing",
            "settings": result.config,
        }
    )
    if result.not_listed:
        err.print(f"{result.not_listed} arrays of the source are not in the listing and were left out")
    print_failures(result.failures, "failed")


def run_export(settings: "ExportSettings", *, as_json: bool = False) -> None:
    """Carry out ``export`` and print its summary."""
    from featcache.exchange.exporting import export as write

    with bars() as drawn:
        result = write(settings, on_progress=lambda done, total: drawn.update("export", done, total))
    if as_json:
        print_json(result.to_dict())
        return
    failed = f", {result.num_failed} of them failed (see videos.csv)" if result.num_failed else ""
    print_facts(
        {
            "written": f"{result.out} ({result.format})",
            "feature": f"{result.feature} ({result.dtype})",
            "videos": f"{result.num_videos}{failed}",
            "rows": result.num_rows,
            **result.details,
        }
    )


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


RUNNERS = {"import": run_import, "export": run_export}
