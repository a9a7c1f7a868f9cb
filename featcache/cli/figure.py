"""``figure``: activation and attention maps over real frames, and accuracy against cost."""

import typer

from featcache.cli.tables import flag
from featcache.cli.verbs import Verb, group_of

OUT = flag("out", "-o")

VERBS = (
    Verb(
        name="activation",
        command="figure-activation",
        help="Draw what the image model and a temporal module respond to, over the frames of a video.",
        example="`featcache figure activation stores/ucf101 --run runs/ucf101/tmm-… "
        "--video v_Basketball_g01_c01 --out maps.png`",
        flags=(
            flag("bank.store", "argument"),
            flag("run"),
            flag("video", "-v"),
            OUT,
            flag("bank.feature", "-f"),
            flag("num_frames", "--frames"),
            flag("seed"),
            flag("size"),
            flag("videos"),
            flag("device"),
        ),
        sets="bank.grid=14",
    ),
    Verb(
        name="attention",
        command="figure-attention",
        help="Draw where the class token of a transformer looks, over the frames of videos.",
        example="`featcache figure attention clip.mp4 --backbone svt-b --weights teacher.safetensors "
        "--against timm/vit_base_patch16_224.dino --out attention.png`",
        flags=(
            flag("sources", "argument", help="Video files."),
            flag("backbone", "-b", kind=str, help="`svt-b`, or a vision transformer of images."),
            flag("weights", "-w", kind=str, help="`default`, `random` or a file.  [default: default]"),
            flag(
                "against",
                kind=list[str],
                help="Row to compare with: weights of the same backbone, BACKBONE, or BACKBONE=WEIGHTS; repeatable.",
            ),
            OUT,
            flag("num_frames", "--frames"),
            flag("heads"),
            flag("input_size"),
            flag("size"),
            flag("device"),
        ),
        shorthand="attention",
        sets="decoder=torchcodec",
    ),
    Verb(
        name="cost",
        command="figure-cost",
        help="Plot accuracy against cost from the tables of sweeps; rows of one name are one point.",
        example="`featcache figure cost runs/advise/fig6_width runs/advise/fig6_depth --out cost.png`",
        flags=(flag("tables", "argument"), OUT, flag("cost"), flag("accuracy"), flag("memory")),
        sets="accuracy=shuffled",
    ),
)

figure = typer.Typer(
    cls=group_of(lambda: VERBS), no_args_is_help=True, help="Draw figures of trained modules and of tables."
)
