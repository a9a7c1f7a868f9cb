"""``audit``: what an accuracy would be without what it should show."""

import typer

from featcache.cli.tables import flag
from featcache.cli.verbs import Verb, group_of

VERBS = (
    Verb(
        name="leaks",
        command="audit-leaks",
        help="Is the answer of a pretext task told without motion? Asks a linear classifier that is given simple cues "
        "of clips in which the camera stands still, the length of videos, or the place of clips.",
        example="`featcache audit leaks prp --complexity c2`  \n"
        "A task of a package, on fewer frames: `featcache audit leaks arrow --frames 4 --input-size 32`",
        flags=(
            flag(
                "task", "argument", kind=str, help="A pretext task, e.g. `rotnet`; --set task.… changes its settings."
            ),
            flag("complexity", kind=str, help="`c1`, `c2` or `c3`: the fewest, more or the most answers of a task."),
            flag("num_frames", "--frames"),
            flag("input_size"),
            flag("num_videos", "--videos"),
            flag("num_draws", "--draws"),
            flag("gops", "--gop"),
            flag("seed"),
            flag("out", "-o"),
        ),
        shorthand="leaks",
        sets="task.stride=4",
    ),
)

audit = typer.Typer(
    cls=group_of(lambda: VERBS), no_args_is_help=True, help="Find what tells an answer that it should not tell."
)
