"""``scan``, ``extract`` and ``plan``: from videos to a store."""

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.backbones.from_file import name_of
from featcache.cli.console import (
    Bars,
    Quiet,
    bars,
    err,
    out,
    print_facts,
    print_failures,
    print_json,
    print_line,
    print_table,
)
from featcache.cli.source import (
    Dataset,
    GroupBy,
    LowShot,
    Root,
    Source,
    SplitColumn,
    Subset,
    TestFraction,
    selected,
)
from featcache.errors import ConfigError, FeatcacheError, NothingUsableError
from featcache.extract.presets import PRESETS, with_preset
from featcache.units import duration, readable_bytes

if TYPE_CHECKING:
    from featcache.commands.registry import ScanSettings
    from featcache.extract.estimate import Estimate
    from featcache.extract.progress import Progress
    from featcache.extract.result import Extraction
    from featcache.extract.settings import ExtractSettings

Out = Annotated[str, typer.Option("--out", "-o", help="The store to create, resume or extend.")]
Backbone = Annotated[
    list[str], typer.Option("--backbone", "-b", help="Backbone; repeat for several. `featcache backbones` lists them.")
]
Weights = Annotated[
    list[str],
    typer.Option("--weights", "-w", help="`default`, `random` or a file; one for all, or one a backbone."),
]
Layer = Annotated[
    list[str],
    typer.Option(help="Layer name; repeat for several arrays of one forward.  [default: the backbone's last]"),
]
Output = Annotated[str | None, typer.Option(help="`mean` or `cls` vectors, `tokens` or dense `map`.  [default: mean]")]
Grid = Annotated[int | None, typer.Option(help="Pool maps to this side when writing.")]
Channels = Annotated[int | None, typer.Option(help="Pool neighbouring channels to this many when writing.")]
Precision = Annotated[str | None, typer.Option(help="`float16`, `float32` or `int8`.  [default: float16]")]
Feature = Annotated[
    list[str],
    typer.Option(
        "--feature", "-f", help="An array with settings of its own: `backbone=i3d,layer=Mixed_4f,output=map,grid=7`."
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        "--sampling",
        help=f"The views of a paper, which other flags override: {', '.join(f'`{name}`' for name in PRESETS)}.",
    ),
]
LayoutOption = Annotated[
    str | None, typer.Option("--layout", help="`clips`: a row is a clip; `frames`: a frame bank.  [default: clips]")
]
Clips = Annotated[int | None, typer.Option("--clips", help="Temporal clips a video.  [default: 4]")]
Frames = Annotated[int | None, typer.Option("--frames", help="Frames a clip.  [default: the backbone's, or 8]")]
Stride = Annotated[int | None, typer.Option("--stride", help="Frame stride.  [default: the backbone's]")]
Crops = Annotated[int | None, typer.Option("--crops", help="Spatial views a clip; 3 = left, centre, right.")]
FormatOption = Annotated[str, typer.Option("--format", help="Shard files: `zarr` or `hdf5`.")]
Device = Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Try videos again that failed before.")]
MaxFailed = Annotated[
    str | None,
    typer.Option(help="Videos that may fail before it is an error: `10`, or a share, `5%`.  [default: all but one]"),
]
DiskFraction = Annotated[float, typer.Option(help="Refuse to fill more than this share of the free disk.")]
Set = Annotated[
    list[str], typer.Option("--set", help="Any other setting by its key, e.g. `sampling.short_videos=clamp`.")
]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print the YAML that repeats this, and stop.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what it would take (`featcache plan`).")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add this room's verbs."""
    app.command(epilog="Example: `featcache scan videos/ --out videos.parquet`")(scan)
    app.command(
        epilog="Example: `featcache extract videos/ --backbone clip-l14 --out stores/mine`  \n"
        "Two arrays from one pass: `featcache extract videos/ -f backbone=timm/tf_efficientnet_lite0,layer=blocks.4,"
        "output=map -f backbone=timm/tf_efficientnet_lite0 --layout frames -o stores/bank`"
    )(extract)
    app.command(epilog="Example: `featcache plan videos/ --backbone clip-l14 --out stores/mine --output map`")(plan)


def scan(
    source: Source = None,
    out: Annotated[str, typer.Option("--out", "-o", help="The manifest to write.")] = "videos.parquet",
    decoder: Annotated[str, typer.Option(help="Decoder that counts the frames.")] = "pyav",
    dataset: Dataset = None,
    root: Root = None,
    split_column: SplitColumn = None,
    test_fraction: TestFraction = None,
    group_by: GroupBy = None,
    subset: Subset = None,
    low_shot: LowShot = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List videos into a manifest: content hash, frames, rate, codec, label, and why a file cannot be used."""
    from featcache.commands.registry import ScanSettings
    from featcache.config import parse

    where = selected(source, dataset, root, split_column, test_fraction, group_by, subset, low_shot)
    run_scan(parse(ScanSettings, {**where, "out": out, "decoder": decoder}), as_json=as_json)


def extract(
    out: Out,
    source: Source = None,
    dataset: Dataset = None,
    root: Root = None,
    split_column: SplitColumn = None,
    test_fraction: TestFraction = None,
    group_by: GroupBy = None,
    subset: Subset = None,
    low_shot: LowShot = None,
    backbone: Backbone = [],
    weights: Weights = [],
    layer: Layer = [],
    output: Output = None,
    grid: Grid = None,
    channels: Channels = None,
    precision: Precision = None,
    feature: Feature = [],
    preset: Preset = None,
    layout: LayoutOption = None,
    clips: Clips = None,
    frames: Frames = None,
    stride: Stride = None,
    crops: Crops = None,
    file_format: FormatOption = "zarr",
    device: Device = "auto",
    retry_failed: RetryFailed = False,
    max_failed: MaxFailed = None,
    disk_fraction: DiskFraction = 0.8,
    set_: Set = [],
    print_config: PrintConfig = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compute features of videos into a store; run it again to resume, add videos or add a backbone."""
    where = selected(source, dataset, root, split_column, test_fraction, group_by, subset, low_shot)
    settings = _settings(
        where, out, backbone, weights, layer, output, grid, channels, precision, feature, preset, layout, clips,
        frames, stride, crops, file_format, device, retry_failed, max_failed, disk_fraction, set_,
    )  # fmt: skip
    if print_config:
        _print_config(settings)
    elif dry_run:
        run_plan(settings, as_json=as_json)
    else:
        run_extract(settings, as_json=as_json)


def plan(
    out: Out,
    source: Source = None,
    dataset: Dataset = None,
    root: Root = None,
    split_column: SplitColumn = None,
    test_fraction: TestFraction = None,
    group_by: GroupBy = None,
    subset: Subset = None,
    low_shot: LowShot = None,
    backbone: Backbone = [],
    weights: Weights = [],
    layer: Layer = [],
    output: Output = None,
    grid: Grid = None,
    channels: Channels = None,
    precision: Precision = None,
    feature: Feature = [],
    preset: Preset = None,
    layout: LayoutOption = None,
    clips: Clips = None,
    frames: Frames = None,
    stride: Stride = None,
    crops: Crops = None,
    file_format: FormatOption = "zarr",
    device: Device = "auto",
    disk_fraction: DiskFraction = 0.8,
    set_: Set = [],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what an extraction would take, from a few videos really decoded and encoded; writes nothing."""
    where = selected(source, dataset, root, split_column, test_fraction, group_by, subset, low_shot)
    settings = _settings(
        where, out, backbone, weights, layer, output, grid, channels, precision, feature, preset, layout, clips,
        frames, stride, crops, file_format, device, False, None, disk_fraction, set_,
    )  # fmt: skip
    run_plan(settings, as_json=as_json)


def _settings(
    where: dict[str, Any], out: str, backbones: list[str], weights: list[str], layers: list[str], output: str | None,
    grid: int | None, channels: int | None, precision: str | None, features: list[str], preset: str | None,
    layout: str | None, clips: int | None, frames: int | None, stride: int | None, crops: int | None,
    file_format: str, device: str, retry_failed: bool, max_failed: str | None, disk_fraction: float,
    assignments: list[str],
) -> "ExtractSettings":  # fmt: skip
    """Settings from flags; only what was given is set, so that defaults live in one place."""
    from featcache.config import apply_overrides, parse
    from featcache.extract.settings import ExtractSettings

    if len(weights) > 1 and len(weights) != len(backbones):
        raise ConfigError(f"{len(weights)} --weights for {len(backbones)} --backbone; give one, or one a backbone")
    flags = {"output": output, "grid": grid, "channels": channels, "precision": precision}
    shared = {key: value for key, value in flags.items() if value is not None}
    if features and not backbones and (shared or layers or weights):
        name = "layer" if layers else next(iter(shared), "weights")
        raise ConfigError(f"--{name} belongs to --backbone, and none is given; write {name}=... inside --feature")
    listed: list[dict[str, Any]] = [
        {"backbone": name, **one, **shared, **({"weights": weights[index % len(weights)]} if weights else {})}
        for index, name in enumerate(backbones)
        for one in ([{"layer": layer} for layer in layers] or [{}])
    ]
    listed += [_feature(text) for text in features]
    listed = [
        {**feature, "backbone": name_of(feature["backbone"])} if isinstance(feature.get("backbone"), str) else feature
        for feature in listed
    ]
    if not listed and not any(text.startswith("features.") for text in assignments):
        raise ConfigError("no backbone given; add --backbone NAME (`featcache backbones` lists them)")
    sampling = {
        "layout": layout, "num_clips": clips, "num_frames": frames, "frame_stride": stride, "num_crops": crops
    }  # fmt: skip
    data = {
        **where,
        "out": out,
        "file_format": file_format,
        "features": listed,
        "sampling": {key: value for key, value in sampling.items() if value is not None},
        "runtime": {"device": device},
        "disk_fraction": disk_fraction,
        "retry_failed": retry_failed,
        "max_failed": max_failed,
    }
    given = apply_overrides(data, assignments)
    return parse(ExtractSettings, with_preset(preset, given) if preset is not None else given)


def _feature(text: str) -> dict[str, Any]:
    from featcache.config import read_yaml

    pairs = [part.partition("=") for part in text.split(",")]
    usage = f"cannot read --feature {text!r}; write key=value pairs, e.g. backbone=i3d,output=map,grid=7"
    if any(not equals for _, equals, _ in pairs):
        raise ConfigError(usage)
    try:
        return {key.strip(): read_yaml(value) for key, _, value in pairs}
    except ConfigError as error:
        raise ConfigError(usage) from error


def _print_config(settings: "ExtractSettings") -> None:
    from featcache.config import to_yaml

    out.print(to_yaml(settings), end="", markup=False)


def run_scan(settings: "ScanSettings", *, as_json: bool = False) -> None:
    """Carry out ``scan`` and print its summary."""
    from featcache.config import to_yaml
    from featcache.data.listing import list_videos
    from featcache.data.manifest import write_parquet
    from featcache.data.notices import warn
    from featcache.data.scan import scan_listed
    from featcache.files.publish import put_replace

    with bars() as drawn:
        manifest = scan_listed(
            list_videos(
                source=settings.source, dataset=settings.dataset, root=settings.root, selection=settings.selection
            ),
            decoder=settings.decoder,
            deadline_seconds=settings.deadline_seconds,
            max_gigapixels=settings.max_gigapixels,
            progress=lambda done, total: drawn.update("scan", done, total),
        )
    warn(manifest)
    target = Path(settings.out)
    write_parquet(manifest, target)
    put_replace(target.with_suffix(".yaml"), to_yaml(settings).encode())
    summary = {"manifest": str(target), **manifest.summary()}
    if as_json:
        print_json(summary)
    else:
        print_facts(summary)
        unusable = [(video.id, video.status, video.reason) for video in manifest.videos if video.status != "ok"]
        print_failures(unusable, "cannot be used")
    if manifest.videos and not manifest.count_by_status()["ok"]:
        raise NothingUsableError(
            f"none of the {len(manifest)} videos of {manifest.root} can be used, e.g. {manifest.videos[0].id!r} "
            f"({manifest.videos[0].status}: {manifest.videos[0].reason}); mend them and scan again"
        )


def run_extract(settings: "ExtractSettings", *, as_json: bool = False) -> None:
    """Carry out ``extract`` with progress bars and print its summary."""
    from featcache.extract.checking import check

    check(settings)  # before what takes seconds to import
    from featcache.extract.run import extract as run

    with bars() as drawn:
        result = run(
            settings,
            on_scan=lambda done, total: drawn.update("scan", done, total),
            on_progress=lambda progress: draw_progress(drawn, progress),
        )
    problem = problem_of(result, max_failed=settings.max_failed)
    if as_json:
        print_json({**result.to_dict(), "error": None if problem is None else str(problem)})
    else:
        print_extraction(result)
    if result.shards_elsewhere:
        err.print(f"{result.shards_elsewhere} shards are being written by another process; run again when it is done")
    if problem is not None:
        raise problem


def problem_of(result: "Extraction", *, max_failed: int | str | None) -> FeatcacheError | None:
    """Why an extraction that ran to its end is an error all the same: every video failed, or more than may."""
    from featcache.extract.settings import failures_allowed

    if result.videos_failed == result.videos_total:
        video, status, reason = result.failures[0]
        return NothingUsableError(
            f"nothing was extracted: all {result.videos_total} videos of {result.store} failed, e.g. {video!r} "
            f"({status}: {reason}); mend them and run the same command again"
        )
    allowed = failures_allowed(max_failed, num_videos=result.videos_total)
    if allowed is not None and result.videos_failed > allowed:
        return FeatcacheError(
            f"{result.videos_failed} of {result.videos_total} videos of {result.store} failed, and max_failed "
            f"{max_failed} allows {allowed}; what is extracted stays, mend the others and run the same command again"
        )
    return None


def run_plan(settings: "ExtractSettings", *, as_json: bool = False) -> None:
    """Carry out ``plan`` and print what the extraction would take."""
    from featcache.extract.checking import check

    check(settings)  # before what takes seconds to import
    from featcache.extract.estimate import estimate

    with bars() as drawn:
        result = estimate(settings, on_scan=lambda done, total: drawn.update("scan", done, total))
    if as_json:
        print_json(result.to_dict())
    else:
        print_estimate(result)


def draw_progress(drawn: Bars, progress: "Progress") -> None:
    """One bar of rows with the rates that tell who waits for whom."""
    seconds = max(progress.elapsed_seconds, 1e-9)
    note = (
        f"{progress.videos_done / seconds:.1f} videos/s {progress.frames_done / seconds:.0f} frames/s "
        f"wait {progress.decode_wait_seconds:.0f} s encode {progress.encode_seconds:.0f} s "
        f"{readable_bytes(progress.bytes_written)}"
    )
    done = progress.rows_done + progress.rows_failed
    drawn.update("extract", done, progress.num_rows, note, sum(progress.failed.values()))


def print_extraction(result: "Extraction") -> None:
    """The summary of an extraction."""
    facts: dict[str, object] = {
        "store": result.store,
        "videos": f"{result.videos_ok} ok, {result.videos_failed} failed, "
        f"{f'{result.videos_pending} pending, ' if result.videos_pending else ''}{result.videos_total} in all",
        "rows": f"{result.rows_written} written now",
        "features": ", ".join(result.features),
        "written": readable_bytes(result.bytes_written),
        "time": f"{duration(result.seconds)} (waited {duration(result.decode_wait_seconds)} for decoding, "
        f"{duration(result.encode_seconds)} encoding; bottleneck: {result.bottleneck})",
        "settings": result.config,
    }
    print_facts(facts)
    print_failures(result.failures, "failed")
    if result.failures:
        counts = Counter(status for _, status, _ in result.failures)
        kinds = ", ".join(f"{count} {status}" for status, count in counts.most_common())
        print_line(f"{result.videos_failed} of {result.videos_total} videos failed: {kinds}")


def print_estimate(result: "Estimate") -> None:
    """The plan as a table."""
    rows = [
        (feature.name, "x".join(map(str, feature.shape)), feature.precision, readable_bytes(feature.num_bytes))
        for feature in result.features
    ]
    print_table("features", ("name", "shape of a row", "precision", "size"), rows)
    hours = "unknown" if math.isnan(result.seconds) else duration(result.seconds)
    print_facts(
        {
            "videos": f"{result.videos_to_do} to do, {result.videos_unusable} unusable",
            "rows": f"{result.rows_to_do} to compute in {result.num_shards} shards",
            "shard": f"at most {result.shard_rows} rows, about {duration(result.shard_seconds)}: what a kill may cost",
            "disk": f"{readable_bytes(result.num_bytes)} of {readable_bytes(result.free_bytes)} free",
            "time": f"about {hours}, limited by {result.bottleneck} (measured on {result.num_measured} videos)",
        }
    )
    if result.advice:
        err.print(result.advice, markup=False)


RUNNERS = {"scan": run_scan, "extract": run_extract}
