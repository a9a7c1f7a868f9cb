"""``scan``, ``extract`` and ``plan``: from videos to a store."""

from typing import Annotated

import typer

from featcache.cli.tables import flag
from featcache.cli.verbs import Verb, perform_or_plan
from featcache.extract.presets import PRESETS

VIDEOS = (
    flag("source", "argument", help="A folder of videos, or a CSV, JSONL or Parquet listing; or give --dataset."),
    flag("dataset", help="A public data set by its lists; `featcache datasets` names them."),
    flag("root"),
    flag("selection.split_column"),
    flag("selection.test_fraction", help="Split a source that has no splits, e.g. 0.3; see --group-by."),
    flag("selection.group_by", help="Label column; videos with the same value stay in the same split."),
    flag("selection.subset"),
    flag("selection.low_shot"),
)
"""Flags that choose the videos: a source or a data set, its split, and a selection."""

ARRAYS = (
    flag(
        "backbone", "-b", kind=list[str],
        help="Backbone of `featcache backbones`, or the folder of a fine-tuned run; repeat for several.",
    ),
    flag(
        "weights", "-w", kind=list[str],
        help="`default`, `random` or a file; one for all, or one for each backbone.  [default: default]",
    ),
    flag(
        "layer", kind=list[str],
        help="Layer name; repeat for several arrays of one forward pass.  [default: the backbone's last]",
    ),
    flag("features.*.output"),
    flag("features.*.name", help="Name of the array.  [default: backbone, layer and output]"),
    flag("features.*.grid", help="Pool maps to this side when writing."),
    flag("features.*.channels", help="Pool neighbouring channels to this many when writing."),
    flag("features.*.precision"),
    flag(
        "feature", "-f", kind=list[str],
        help="An array with settings of its own: `backbone=i3d,layer=Mixed_4f,output=map,grid=7`.",
    ),
    flag(
        "preset", "--preset", "--sampling", kind=str,
        help=f"The views of a paper, which other flags override: {', '.join(f'`{name}`' for name in PRESETS)}.",
    ),
    flag("sampling.layout"),
    flag("sampling.num_clips", "--clips"),
    flag("sampling.num_frames", "--frames"),
    flag("sampling.frame_stride", "--stride"),
    flag("sampling.num_crops", "--crops", help="Spatial views of a clip; 3 are left, centre and right."),
    flag("sampling.both_views", help="Store training and test views of every video, for any column of splits."),
    flag("file_format", "--format"),
    flag("runtime.device"),
    flag("retry_failed"),
    flag(
        "max_failed",
        help="Number or share of videos that may fail without an error: `10` or `5%`.  [default: all but one]",
    ),
    flag("disk_fraction"),
)  # fmt: skip
"""Flags that choose what is stored for the videos, and how."""

CLUSTER = (
    flag("cluster.scheduler"),
    flag("cluster.workers"),
)
"""Flags that choose the processes that compute; an estimate is of one process."""

OUT = flag("out", "-o")
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only estimate time and disk (`featcache plan`).")]

VERBS = (
    Verb(
        name="scan",
        command="scan",
        help="List videos into a manifest: content hash, frames, rate, codec, label, and why a file cannot be used.",
        example="`featcache scan videos/ --out videos.parquet`",
        flags=(*VIDEOS, OUT, flag("decoder"), flag("decode", help="Decode every frame, to find damaged videos; slow.")),
        sets="max_gigapixels=50",
    ),
    Verb(
        name="extract",
        command="extract",
        help="Compute features of videos into a store; run it again to resume, add videos or add a backbone.",
        example="`featcache extract videos/ --backbone clip-l14 --out stores/mine`  \n"
        "Two arrays from one pass: `featcache extract videos/ -f backbone=timm/tf_efficientnet_lite0,layer=blocks.4,"
        "output=map -f backbone=timm/tf_efficientnet_lite0 --layout frames -o stores/bank`",
        flags=(*VIDEOS, OUT, *ARRAYS, *CLUSTER),
        shorthand="extract",
        act=perform_or_plan(),
        extra={"dry_run": DryRun},
        sets="sampling.short_videos=clamp",
    ),
    Verb(
        name="plan",
        command="extract",
        help="Estimate time and disk of an extraction by decoding and encoding a few videos; writes nothing.",
        example="`featcache plan videos/ --backbone clip-l14 --out stores/mine --output map`",
        flags=(*VIDEOS, OUT, *ARRAYS, *CLUSTER),
        shorthand="extract",
        act=perform_or_plan(always=True),
        sets="sampling.short_videos=clamp",
    ),
)
