"""``probe``: ask a store how well its features tell labels apart."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.cli.console import print_json, print_line, print_table

if TYPE_CHECKING:
    from featcache.commands.registry import ProbeTarget
    from featcache.evaluation.run import ProbeResult
    from featcache.metrics.intervals import Metric

StorePath = Annotated[str, typer.Argument(help="A store.")]
Feature = Annotated[str | None, typer.Option("--feature", "-f", help="Name of the array, where there are several.")]
Label = Annotated[str, typer.Option("--label", "-l", help="Label column.")]
SplitColumn = Annotated[
    str | None,
    typer.Option(help="Label column with the split, e.g. `split2`.  [default: `split_<label>`, or the store's own]"),
]
TrainSplit = Annotated[str, typer.Option(help="Split to learn from.")]
TestSplit = Annotated[list[str], typer.Option(help="Split to score; repeat for several.  [default: all others]")]
Device = Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")]
OutFolder = Annotated[str | None, typer.Option("--out", "-o", help="Folder for result and settings.")]
Set = Annotated[list[str], typer.Option("--set", help="Any other setting by its key, e.g. `knn.center=true`.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

LowShot = Annotated[
    float | None,
    typer.Option(help="Learn from the first of each class's training videos: `0.1` is SCALE's 10 %.  [default: all]"),
]
Numbers = Annotated[bool, typer.Option("--numbers", help="The labels are numbers to predict, not classes.")]
Model = Annotated[str, typer.Option(help="Folder of a `featcache train scale` run.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training videos.  [default: 60]")]

app = typer.Typer(no_args_is_help=True, help="Probe a store, any number of times, without the videos.")


@app.command(epilog="Example: `featcache probe knn stores/mine -k 20 -k 5`")
def knn(
    store: StorePath,
    feature: Feature = None,
    label: Label = "label",
    k: Annotated[list[int], typer.Option("-k", help="Neighbours; repeat for several, the first is reported.")] = [],
    temperature: Annotated[float, typer.Option(help="A neighbour of cosine s votes exp(s / temperature).")] = 0.07,
    model: Annotated[
        str | None, typer.Option(help="Folder of a `featcache train scale` run: SCALE's kNN.  [default: none]")
    ] = None,
    split_column: SplitColumn = None,
    train_split: TrainSplit = "train",
    test_split: TestSplit = [],
    low_shot: LowShot = None,
    device: Device = "auto",
    out: OutFolder = None,
    set_: Set = [],
    as_json: Json = False,
) -> None:
    """Weighted nearest neighbours by cosine (k = 20, votes exp(s / 0.07))."""
    own: dict[str, Any] = {"temperature": temperature, "model": model, **({"ks": k} if k else {})}
    target = _target(store, feature, label, split_column, train_split, test_split, low_shot, device, out)
    _parse_and_run("knn", {**target, "knn": own}, set_, as_json=as_json)


@app.command(epilog="Example: `featcache probe linear stores/mine --label label`")
def linear(
    store: StorePath,
    feature: Feature = None,
    label: Label = "label",
    epochs: Annotated[int | None, typer.Option(help="Passes over the training rows.  [default: 30]")] = None,
    split_column: SplitColumn = None,
    train_split: TrainSplit = "train",
    test_split: TestSplit = [],
    low_shot: LowShot = None,
    device: Device = "auto",
    out: OutFolder = None,
    set_: Set = [],
    as_json: Json = False,
) -> None:
    """A linear classifier: a whole grid of settings in one pass, the best chosen on held-out training videos."""
    own: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
    target = _target(store, feature, label, split_column, train_split, test_split, low_shot, device, out)
    _parse_and_run("linear", {**target, "linear": own}, set_, as_json=as_json)


@app.command(epilog="Example: `featcache probe ridge stores/lvu --label like_ratio`")
def ridge(
    store: StorePath,
    feature: Feature = None,
    label: Label = "label",
    split_column: SplitColumn = None,
    train_split: TrainSplit = "train",
    test_split: TestSplit = [],
    device: Device = "auto",
    out: OutFolder = None,
    set_: Set = [],
    as_json: Json = False,
) -> None:
    """Ridge regression of a column of numbers on the mean vector of each video."""
    target = _target(store, feature, label, split_column, train_split, test_split, None, device, out)
    _parse_and_run("ridge", target, set_, as_json=as_json)


def _add_trained(name: str, summary: str) -> None:
    """Add a probe that trains a network over clips."""

    def command(
        store: StorePath,
        feature: Feature = None,
        label: Label = "label",
        epochs: Epochs = None,
        split_column: SplitColumn = None,
        train_split: TrainSplit = "train",
        test_split: TestSplit = [],
        low_shot: LowShot = None,
        numbers: Numbers = False,
        device: Device = "auto",
        out: OutFolder = None,
        set_: Set = [],
        as_json: Json = False,
    ) -> None:
        target = _target(store, feature, label, split_column, train_split, test_split, low_shot, device, out)
        own = {_key(name): {"training": {} if epochs is None else {"epochs": epochs}}}
        _parse_and_run(name, {**target, "numbers": numbers, **own}, set_, as_json=as_json)

    app.command(name, help=summary, epilog=f"Example: `featcache probe {name} stores/mine`")(command)


def _add_pretrained(name: str, summary: str) -> None:
    """Add a probe that starts from a pre-trained set predictor."""

    def command(
        store: StorePath,
        model: Model,
        feature: Feature = None,
        label: Label = "label",
        epochs: Epochs = None,
        split_column: SplitColumn = None,
        train_split: TrainSplit = "train",
        test_split: TestSplit = [],
        low_shot: LowShot = None,
        numbers: Numbers = False,
        device: Device = "auto",
        out: OutFolder = None,
        set_: Set = [],
        as_json: Json = False,
    ) -> None:
        target = _target(store, feature, label, split_column, train_split, test_split, low_shot, device, out)
        own = {_key(name): {"model": model, "training": {} if epochs is None else {"epochs": epochs}}}
        _parse_and_run(name, {**target, "numbers": numbers, **own}, set_, as_json=as_json)

    epilog = f"Example: `featcache probe {name} stores/mine --model runs/mine/scale-0123456789ab`"
    app.command(name, help=summary, epilog=epilog)(command)


_add_trained("mlp", "A classifier on each clip and an MLP of it; 8 random clips of a video a step.")
_add_trained("transformer", "A set predictor from random weights, trained whole with a classifier of clips.")
_add_pretrained("scale-linear", "A linear classifier on clips and the summary of their set by a frozen predictor.")
_add_pretrained("scale-ft", "A pre-trained set predictor, trained further with a linear classifier.")


def _target(
    store: str,
    feature: str | None,
    label: str,
    split_column: str | None,
    train_split: str,
    test_splits: list[str],
    low_shot: float | None,
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
        "low_shot": low_shot,
        "device": device,
        "out": out,
    }


def _key(name: str) -> str:
    """The key of a probe's own settings."""
    return name.replace("-", "_")


def _parse_and_run(name: str, data: dict[str, Any], assignments: list[str], *, as_json: bool) -> None:
    from featcache.commands.registry import COMMANDS, ProbeTarget
    from featcache.config import apply_overrides, parse

    settings = parse(COMMANDS[f"probe-{name}"].settings, apply_overrides(data, assignments))
    assert isinstance(settings, ProbeTarget), f"probe-{name} is a probe"
    run(settings, as_json=as_json)


def run(settings: "ProbeTarget", *, as_json: bool = False) -> None:
    """Carry out a probe and print its result."""
    from featcache.config import to_yaml
    from featcache.evaluation.probe import find_probe
    from featcache.evaluation.reading import read_data
    from featcache.evaluation.run import run_probe
    from featcache.files.publish import put_replace

    name = settings.command.removeprefix("probe-")
    own = getattr(settings, _key(name))
    data = read_data(
        Path(settings.store),
        feature=settings.feature,
        label=settings.label,
        split_column=settings.split_column,
        positions=find_probe(name).position_form(own),
        numbers=settings.numbers,
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
        low_shot=settings.low_shot,
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
        print_line(f"written to {folder}", dim=True)


def print_result(result: "ProbeResult") -> None:
    """The numbers of one probe, an interval and the coverage beside each."""
    rows = [
        (
            split,
            *(_shown(name, metric) for name, metric in numbers.metrics.items()),
            f"{numbers.coverage.ok}/{numbers.coverage.total}",
        )
        for split, numbers in result.splits.items()
    ]
    names = next(iter(result.splits.values())).metrics
    kind = f"{result.num_classes} classes" if result.num_classes else "numbers"
    title = f"{result.probe} of {result.feature!r} for {result.label!r}: {kind}, {result.protocol}"
    print_table(title, ("split", *names, "coverage"), rows)
    for note in result.notes:
        print_line(note, dim=True)


def _shown(name: str, metric: "Metric") -> str:
    """Accuracies in per cent, errors as they are, with the interval."""
    scale, digits = (1, 4) if name == "mse" else (100, 1)
    value, low, high = (f"{scale * number:.{digits}f}" for number in (metric.value, metric.low, metric.high))
    return f"{value} [{low}, {high}]"


PROBES = ("knn", "linear", "ridge", "mlp", "transformer", "scale-linear", "scale-ft")
RUNNERS = {f"probe-{name}": run for name in PROBES}
