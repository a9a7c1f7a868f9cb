"""``probe``: ask a store how well its features tell labels apart."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.cli.console import out, print_json, print_table

if TYPE_CHECKING:
    from featcache.commands import KnnProbeSettings, LinearProbeSettings
    from featcache.evaluation.run import ProbeResult

StorePath = Annotated[str, typer.Argument(help="A store.")]
Feature = Annotated[str | None, typer.Option("--feature", "-f", help="Name of the array, where there are several.")]
Label = Annotated[str, typer.Option("--label", "-l", help="Label column.")]
SplitColumn = Annotated[
    str | None,
    typer.Option(help="Label column with the split, e.g. `split2`.  [default: `split_<label>`, or the store's own]"),
]
TrainSplit = Annotated[str, typer.Option(help="Split to learn from.")]
TestSplit = Annotated[list[str], typer.Option(help="Split to score; repeat for several.  [default: all others]")]
Device = Annotated[str, typer.Option(help="`cpu` or `cuda`.")]
OutFolder = Annotated[str | None, typer.Option("--out", "-o", help="Folder for result and settings.")]
Set = Annotated[list[str], typer.Option("--set", help="Any other setting by its key, e.g. `knn.center=true`.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

app = typer.Typer(no_args_is_help=True, help="Probe a store: kNN or linear, any number of times, without the videos.")


@app.command(epilog="Example: `featcache probe knn stores/mine -k 20 -k 5`")
def knn(
    store: StorePath,
    feature: Feature = None,
    label: Label = "label",
    k: Annotated[list[int], typer.Option("-k", help="Neighbours; repeat for several, the first is reported.")] = [],
    temperature: Annotated[float, typer.Option(help="A neighbour of cosine s votes exp(s / temperature).")] = 0.07,
    split_column: SplitColumn = None,
    train_split: TrainSplit = "train",
    test_split: TestSplit = [],
    device: Device = "cpu",
    out: OutFolder = None,
    set_: Set = [],
    as_json: Json = False,
) -> None:
    """Weighted nearest neighbours by cosine (k = 20, votes exp(s / 0.07))."""
    from featcache.commands import KnnProbeSettings
    from featcache.config import apply_overrides, parse

    own: dict[str, Any] = {"temperature": temperature, **({"ks": k} if k else {})}
    data = {**_target(store, feature, label, split_column, train_split, test_split, device, out), "knn": own}
    run_knn(parse(KnnProbeSettings, apply_overrides(data, set_)), as_json=as_json)


@app.command(epilog="Example: `featcache probe linear stores/mine --label label`")
def linear(
    store: StorePath,
    feature: Feature = None,
    label: Label = "label",
    epochs: Annotated[int | None, typer.Option(help="Passes over the training rows.  [default: 30]")] = None,
    split_column: SplitColumn = None,
    train_split: TrainSplit = "train",
    test_split: TestSplit = [],
    device: Device = "cpu",
    out: OutFolder = None,
    set_: Set = [],
    as_json: Json = False,
) -> None:
    """A linear classifier: a whole grid of settings in one pass, the best chosen on held-out training videos."""
    from featcache.commands import LinearProbeSettings
    from featcache.config import apply_overrides, parse

    own: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
    data = {**_target(store, feature, label, split_column, train_split, test_split, device, out), "linear": own}
    run_linear(parse(LinearProbeSettings, apply_overrides(data, set_)), as_json=as_json)


def _target(
    store: str,
    feature: str | None,
    label: str,
    split_column: str | None,
    train_split: str,
    test_splits: list[str],
    device: str,
    out: str | None,
) -> dict[str, Any]:
    return {
        "store": store,
        "feature": feature,
        "label": label,
        "split_column": split_column,
        "train_split": train_split,
        "test_splits": test_splits or None,
        "device": device,
        "out": out,
    }


def run_knn(settings: "KnnProbeSettings", *, as_json: bool = False) -> None:
    """Carry out ``probe knn`` and print its result."""
    _run("knn", settings, settings.knn, as_json=as_json)


def run_linear(settings: "LinearProbeSettings", *, as_json: bool = False) -> None:
    """Carry out ``probe linear`` and print its result."""
    _run("linear", settings, settings.linear, as_json=as_json)


def _run(name: str, settings: "KnnProbeSettings | LinearProbeSettings", own: object, *, as_json: bool) -> None:
    from featcache.config import to_yaml
    from featcache.evaluation.run import run_probe
    from featcache.evaluation.tables import read_data
    from featcache.io import put_replace

    data = read_data(
        Path(settings.store), feature=settings.feature, label=settings.label, split_column=settings.split_column
    )
    resolved = settings.model_copy(update={"feature": data.feature, "split_column": data.split_column})
    result = run_probe(
        name,
        data,
        own,
        intervals=settings.intervals,
        train_split=settings.train_split,
        test_splits=settings.test_splits,
        device=settings.device,
    )
    text = to_yaml(resolved)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    folder = Path(settings.out or Path("runs") / Path(settings.store).name / f"{name}-{digest}")
    put_replace(folder / "config.yaml", text.encode())
    put_replace(folder / "result.json", result.to_json().encode())
    if as_json:
        print_json({**json.loads(result.to_json()), "out": str(folder)})
    else:
        print_result(result)
        out.print(f"written to {folder}", markup=False, style="dim")


def print_result(result: "ProbeResult") -> None:
    """The numbers of one probe, an interval and the coverage beside each."""
    rows = [
        (
            split,
            *(f"{100 * metric.value:.1f} [{100 * metric.low:.1f}, {100 * metric.high:.1f}]" for metric in
              numbers.metrics.values()),
            f"{numbers.coverage.ok}/{numbers.coverage.total}",
        )
        for split, numbers in result.splits.items()
    ]  # fmt: skip
    names = next(iter(result.splits.values())).metrics
    title = (
        f"{result.probe} of {result.feature!r} for {result.label!r}: {result.num_classes} classes, {result.protocol}"
    )
    print_table(title, ("split", *names, "coverage"), rows)
    for note in result.notes:
        out.print(note, markup=False, style="dim")


RUNNERS = {"probe-knn": run_knn, "probe-linear": run_linear}
