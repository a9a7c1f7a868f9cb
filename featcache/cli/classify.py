"""``classify``: classes of video files."""

from featcache.cli.tables import flag
from featcache.cli.verbs import Verb

VERBS = (
    Verb(
        name="classify",
        command="classify",
        help="Say what video files show, by a fine-tuned model or a backbone that has a classifier of its own.",
        example="`featcache classify a.mp4 b.mp4 --model runs/ucf101/finetune-… --top 3`  \n"
        "`featcache classify videos/ --model i3d --json`",
        flags=(
            flag("files", "argument", help="Video files, folders of them, or CSV, JSONL or Parquet listings."),
            flag("model", "-m"),
            flag("seed"),
            flag("weights", "-w"),
            flag("top", "-k"),
            flag("num_clips", "--test-clips", "--clips"),
            flag("num_crops", "--crops"),
            flag("workers"),
            flag("device"),
            flag("out", "-o"),
        ),
        shorthand="classify",
        sets="deadline_seconds=10",
    ),
)
