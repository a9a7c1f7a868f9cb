"""``figure``: activation and attention maps over real frames, and accuracy against cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featcache.cli.console import print_facts, print_json, print_line, print_table

if TYPE_CHECKING:
    from featcache.report.figure_settings import (
        ActivationFigureSettings,
        AttentionFigureSettings,
        CostFigureSettings,
    )

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

app = typer.Typer(no_args_is_help=True, help="Draw figures of trained modules and of tables.")


@app.command(
    epilog="Example: `featcache figure activation stores/ucf101 --run runs/ucf101/tmm-… --video v_Basketball_g01_c01 "
    "--out maps.png`"
)
def activation(
    store: Annotated[str, typer.Argument(help="A store of layout `frames` with maps.")],
    run: Annotated[str, typer.Option(help="A run of `train advise` or `train tmm`.")],
    video: Annotated[str, typer.Option("--video", "-v", help="Id of a video of the store.")],
    out: Annotated[str, typer.Option("--out", "-o", help="The picture to write.")],
    feature: Annotated[str | None, typer.Option("--feature", "-f", help="Array, where there are several.")] = None,
    frames: Annotated[int, typer.Option(help="Frames to show.")] = 16,
    seed: Annotated[int, typer.Option(help="Which seed of the run.")] = 0,
    size: Annotated[int, typer.Option(help="Side of a frame in the picture, in pixels.")] = 160,
    videos: Annotated[str | None, typer.Option(help="Folder of the videos.  [default: where they were]")] = None,
    device: Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")] = "auto",
    as_json: Json = False,
) -> None:
    """Draw what the image model and a temporal module respond to, over the frames of a video."""
    from featcache.config import parse
    from featcache.report.figure_settings import ActivationFigureSettings

    data = {
        "bank": {"store": store, "feature": feature}, "run": run, "video": video, "num_frames": frames, "seed": seed,
        "size": size, "videos": videos, "device": device, "out": out,
    }  # fmt: skip
    run_activation(parse(ActivationFigureSettings, data), as_json=as_json)


@app.command(
    epilog="Example: `featcache figure attention clip.mp4 --backbone svt-b --weights teacher.safetensors "
    "--against timm/vit_base_patch16_224.dino --out attention.png`"
)
def attention(
    sources: Annotated[list[str], typer.Argument(help="Video files.")],
    backbone: Annotated[str, typer.Option("--backbone", "-b", help="`svt-b`, or a vision transformer of images.")],
    out: Annotated[str, typer.Option("--out", "-o", help="The picture to write.")],
    weights: Annotated[str, typer.Option("--weights", "-w", help="`default`, `random` or a file.")] = "default",
    against: Annotated[
        list[str],
        typer.Option(help="What stands below: weights of the same backbone, or BACKBONE, or BACKBONE=WEIGHTS; repeat."),
    ] = [],
    frames: Annotated[int, typer.Option(help="Frames to show.")] = 8,
    heads: Annotated[bool, typer.Option("--heads", help="Each head by itself.")] = False,
    input_size: Annotated[int | None, typer.Option(help="Side that networks see.  [default: their own]")] = None,
    size: Annotated[int, typer.Option(help="Side of a frame in the picture, in pixels.")] = 160,
    device: Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")] = "auto",
    as_json: Json = False,
) -> None:
    """Draw where the class token of a transformer looks, over the frames of videos."""
    from featcache.config import parse
    from featcache.report.figure_settings import AttentionFigureSettings

    data = {
        "sources": sources, "networks": _networks(backbone, weights, against), "num_frames": frames, "heads": heads,
        "input_size": input_size, "size": size, "device": device, "out": out,
    }  # fmt: skip
    run_attention(parse(AttentionFigureSettings, data), as_json=as_json)


@app.command(epilog="Example: `featcache figure cost runs/advise/fig6_width runs/advise/fig6_depth --out cost.png`")
def cost(
    tables: Annotated[list[str], typer.Argument(help="`table.json` files of sweeps, or their folders.")],
    out: Annotated[str, typer.Option("--out", "-o", help="The plot to write, a PNG.")],
    cost: Annotated[str, typer.Option(help="Column of the horizontal axis, logarithmic.")] = "MACs (G)",
    accuracy: Annotated[str, typer.Option(help="Column of the vertical axis.")] = "top-1",
    memory: Annotated[str | None, typer.Option(help="Column that the markers' area follows.")] = None,
    as_json: Json = False,
) -> None:
    """Plot accuracy against cost from the tables of sweeps; rows of one name are one point."""
    from featcache.config import parse
    from featcache.report.figure_settings import CostFigureSettings

    data = {"tables": tables, "cost": cost, "accuracy": accuracy, "memory": memory, "out": out}
    run_cost(parse(CostFigureSettings, data), as_json=as_json)


def run_activation(settings: "ActivationFigureSettings", *, as_json: bool = False) -> None:
    """Carry out ``figure activation``."""
    from featcache.report.activation_maps import draw_activation

    facts = draw_activation(settings)
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)


def _networks(backbone: str, weights: str, against: list[str]) -> dict[str, dict[str, str]]:
    """Networks by the name of their row; a second one of the same name is numbered."""
    given = [(backbone, weights)]
    for other in against:
        name, is_both, file = other.partition("=")
        is_weights = other == "random" or Path(other).suffix in (".pth", ".pt", ".safetensors")
        given.append((name, file) if is_both else (backbone, other) if is_weights else (other, "default"))
    networks: dict[str, dict[str, str]] = {}
    for name, file in given:
        row = name if file == "default" else f"{name} {Path(file).stem}"
        place = sum(known.partition(" #")[0] == row for known in networks) + 1
        networks[row if place == 1 else f"{row} #{place}"] = {"backbone": name, "weights": file}
    return networks


def run_attention(settings: "AttentionFigureSettings", *, as_json: bool = False) -> None:
    """Carry out ``figure attention``."""
    from featcache.report.attention_maps import draw_attention

    facts = draw_attention(settings)
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)


def run_cost(settings: "CostFigureSettings", *, as_json: bool = False) -> None:
    """Carry out ``figure cost``."""
    from dataclasses import asdict

    from featcache.report.cost import draw_cost

    points = draw_cost(settings)
    if as_json:
        print_json({"points": [asdict(point) for point in points], "out": settings.out})
        return
    rows = [(point.name, f"{point.cost:.4g}", f"{point.accuracy:.1f}") for point in points]
    print_table("accuracy against cost", ("", settings.cost, settings.accuracy), rows)
    print_line(f"drawn to {settings.out}", dim=True)


RUNNERS = {"figure-activation": run_activation, "figure-attention": run_attention, "figure-cost": run_cost}
