"""The options that say which videos: a source or a data set, its split, and what is taken of it."""

from typing import Annotated, Any

import typer

Source = Annotated[
    str | None, typer.Argument(help="A folder of videos, or a CSV, JSONL or Parquet listing; or give --dataset.")
]
Dataset = Annotated[
    str | None, typer.Option("--dataset", help="A public data set by its lists; `featcache datasets` names them.")
]
Root = Annotated[str | None, typer.Option("--root", help="Folder with the videos and the lists of --dataset.")]
SplitColumn = Annotated[
    str | None, typer.Option("--split-column", help="Label column with the split, e.g. `split2`.  [default: the first]")
]
TestFraction = Annotated[
    float | None, typer.Option("--test-fraction", help="Split a source that has no splits, e.g. 0.3; see --group-by.")
]
GroupBy = Annotated[
    str | None, typer.Option("--group-by", help="Label column of which no value is in both train and test.")
]
Subset = Annotated[
    int | None,
    typer.Option(
        "--subset",
        help="Keep so many training videos, balanced over classes and nested; where the classes do not divide the "
        "number they differ by one, and a class that has too few gives all.",
    ),
]
LowShot = Annotated[
    float | None,
    typer.Option("--low-shot", help="Keep this share of each class's training videos: the first max(1, floor(x n))."),
]


def selected(
    source: str | None,
    dataset: str | None,
    root: str | None,
    split_column: str | None,
    test_fraction: float | None,
    group_by: str | None,
    subset: int | None,
    low_shot: float | None,
) -> dict[str, Any]:
    """The settings of these options."""
    return {
        "source": source,
        "dataset": dataset,
        "root": root,
        "selection": {
            "split_column": split_column,
            "test_fraction": test_fraction,
            "group_by": group_by,
            "subset": subset,
            "low_shot": low_shot,
        },
    }
