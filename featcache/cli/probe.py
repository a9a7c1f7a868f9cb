"""``probe``: one command for every registered probe."""

from collections.abc import Iterator

import typer

from featcache.cli.tables import flag
from featcache.cli.verbs import Verb, group_of

TARGET = (
    flag("store", "argument"),
    flag("test_store"),
    flag("feature", "-f"),
    flag("label", "-l"),
    flag(
        "split_column",
        help="Label column with the split, e.g. `split2`.  [default: `split_<label>`, or the store's own]",
    ),
    flag(
        "group_column",
        help="Label column of what belongs together, or `none`.  [default: `group`, if there is one]",
    ),
    flag("train_split"),
    flag("test_splits", "--test-split", help="Split to score; repeat for several.  [default: all others]"),
    flag(
        "low_shot",
        help="Train on this first share of each class's training videos: `0.1` is SCALE's 10 %.  [default: all]",
    ),
    flag("numbers"),
    flag("device"),
    flag("out", "-o", help="Folder for result and settings."),
)
"""Flags that all probes have."""

EXAMPLES = {
    "knn": "-k 20 -k 5",
    "retrieval": "--train-split train --test-split test",
    "linear": "--label label",
    "ridge": "--label like_ratio",
    "scale-linear": "--model runs/mine/scale-0123456789ab",
    "scale-ft": "--model runs/mine/scale-0123456789ab",
}


def _probes() -> Iterator[Verb]:
    from featcache.commands.probe import probe_summaries

    for name, summary in probe_summaries().items():
        yield Verb(
            name=name,
            command=f"probe-{name}",
            help=f"{summary[:1].upper()}{summary[1:]}.",
            example=f"`featcache probe {name} stores/mine {EXAMPLES.get(name, '')}".rstrip() + "`",
            flags=TARGET,
            section=name.replace("-", "_"),
            sets="intervals.num_resamples=500",
        )


probe = typer.Typer(
    cls=group_of(_probes), no_args_is_help=True, help="Probe a store, any number of times, without the videos."
)
