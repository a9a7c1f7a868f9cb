"""``search``, ``import`` and ``export``: search a store, and exchange arrays with other programs."""

from featcache.cli.tables import flag
from featcache.cli.verbs import Verb

VERBS = (
    Verb(
        name="search",
        command="search",
        help="Find the clips or videos of a store that are most like a video or a text.",
        example="`featcache search stores/mine --video query.mp4 --sheet hits.png`  \n"
        'By text: `featcache search stores/clip --text "a dog catches a frisbee" --by video`',
        flags=(
            flag("store", "argument"),
            flag("video", "-v"),
            flag("text", "-t", help="Text to search for (only with CLIP's layer `proj`)."),
            flag("feature", "-f"),
            flag("by"),
            flag("k", "-k"),
            flag("engine"),
            flag("exclude_self"),
            flag("label", "-l"),
            flag("sheet"),
            flag("videos", help="Folder of the videos for --sheet.  [default: where they were]"),
            flag("weights", "-w"),
            flag("device"),
        ),
        sets="k=20",
    ),
    Verb(
        name="import",
        command="import",
        help="Store features that others made, bit for bit, with a recipe that says what is declared and what is not "
        "known.",
        example="`featcache import features/ --format npy --backbone i3d --stride 4 --clip-frames 16 --fps 30 "
        "--out stores/theirs`  \n"
        "An export comes back whole: `featcache import exported/ --format npy --out stores/again`",
        flags=(
            flag("source", "argument", help="A folder, a .tar shard, or a Parquet file."),
            flag("format"),
            flag("out", "-o"),
            flag(
                "recipe",
                kind=str,
                help="YAML with what is known: `feature`, `sampling`.  [default: the source's recipe.yaml]",
            ),
            flag("feature.backbone", "-b", help="Network that computed the arrays."),
            flag("weights", "-w", kind=str, help="Its weights, as a description."),
            flag("feature.layer"),
            flag("feature.output"),
            flag("feature.precision"),
            flag("feature.name"),
            flag("listing"),
            flag("pattern"),
            flag("timing.fps"),
            flag("timing.stride_frames", "--stride"),
            flag("timing.clip_frames"),
            flag("columns.id", "--id-column"),
            flag("columns.array", "--array-column"),
            flag("columns.array_is"),
        ),
        shorthand="import_",
        sets="feature.grid=7",
    ),
    Verb(
        name="export",
        command="export",
        help="Write a feature with ids, labels, splits, times and boxes in a format that other programs read.",
        example="`featcache export stores/mine --format parquet --out exported/`  \n"
        "For temporal localisation: `featcache export stores/bank --format actionformer --out thumos/`",
        flags=(
            flag("store", "argument"),
            flag("format"),
            flag("out", "-o"),
            flag("feature", "-f"),
            flag("split"),
            flag("videos", "--video", help="Only the video with this id; repeat for several."),
        ),
        sets="shard_megabytes=64",
    ),
)
