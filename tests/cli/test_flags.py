"""Flags that are made of settings: names, types, help and defaults, and how they lie over each other."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
import typer
from typer.testing import CliRunner

from featcache.cli.extract import VERBS
from featcache.cli.flags import build
from featcache.cli.main import app
from featcache.cli.tables import flag
from featcache.commands.registry import command_names, settings_class
from featcache.config import Settings, parse, to_yaml
from featcache.errors import ConfigError
from tests.cli.helpers import settings_of


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A section that is a dataclass.

    Attributes:
        width: Width of it, which may take
            two lines.
        names: Names, in order.
        sharp: Whether it is sharp; ``None``: as it comes.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    width: int = 3
    names: tuple[str, ...] = ("a", "b")
    sharp: bool | None = None


class Toy(Settings):
    """Settings of a toy."""

    command: Literal["toy"] = "toy"
    source: str
    """What to read."""
    size: Literal["small", "large"] = "small"
    """How large; ``small`` or ``large``."""
    limit: float | None = None
    """Most of it; null: all of it."""
    inner: Inner = Inner(width=7)
    """A section."""
    loud: bool = False
    """Make a noise."""


TABLE = (
    flag("source", "argument"),
    flag("size"),
    flag("limit", "-l"),
    flag("inner.width", "--wide"),
    flag("inner.names", "--name"),
    flag("loud"),
    flag("double", kind=int, help="Twice the width."),
    flag("nowhere"),
)


def doubled(data, words, lay):
    return lay(data | ({"inner": {"width": 2 * words["double"]}} if "double" in words else {}))


@pytest.fixture
def toy():
    """Runs a command line of the toy; gives exit code, output and the settings that it means."""
    seen = []

    def act(settings, **options):
        seen.append(settings)

    app = typer.Typer(rich_markup_mode="markdown")
    app.command()(build(Toy, TABLE, act, shorthand=doubled, example="size=large"))

    def call(line):
        done = CliRunner().invoke(app, line.split(), env={"COLUMNS": "160", "TERMINAL_WIDTH": "160"})
        return done, seen.pop() if seen else None

    return call


def test_help_type_and_default_are_those_of_the_setting(toy):
    text = " ".join(toy("--help")[0].output.replace("│", " ").split())
    for words in (
        "What to read. [required]",
        "How large; small or large. [default: small]",
        "Most of it. [default: all of it]",
        "Width of it, which may take two lines. [default: 7]",
        "Names, in order. [default: a, b]",
        "Make a noise. --",
    ):
        assert words in text
    assert "-l" in text
    assert "nowhere" not in text  # no such setting


def test_flags_that_are_not_given_say_nothing(toy):
    assert toy("videos")[1] == Toy(source="videos")
    told = toy("videos --size large -l 0.5 --wide 9 --name x --name y --loud")[1]
    assert told == Toy(source="videos", size="large", limit=0.5, inner=Inner(width=9, names=("x", "y")), loud=True)
    assert toy("videos --name x")[1].inner == Inner(width=7, names=("x",))  # the rest is the command's own
    assert toy("videos --double 4")[1].inner.width == 8
    assert toy("videos --double 4 --wide 5")[1].inner.width == 5
    assert toy("videos --wide 5 --set inner.width=6")[1].inner.width == 6


def test_what_is_lacking_or_no_number_is_told(toy):
    lacking, no_number = toy("--size large")[0], toy("videos --wide broad")[0]
    assert (lacking.exit_code, no_number.exit_code) == (2, 2)
    assert "SOURCE" in lacking.output
    assert "--wide" in no_number.output


@pytest.mark.parametrize(
    "line",
    [
        "scan videos",
        "extract videos -b i3d -o s --layout clips --clips 2",
        "probe knn s -k 5",
        "train svt videos",
        "search s --text x",
        "export s --format npy --out o",
        "figure cost t --out c.png",
        "quickstart",
    ],
)
def test_every_verb_takes_a_file_below_its_flags(line, tmp_path):
    settings = settings_of(*line.split())
    (tmp_path / "file.yaml").write_text(to_yaml(settings))
    verb = line.split()[: 2 if line.split()[0] in ("probe", "train", "figure") else 1]
    assert settings_of(*verb, "--config", str(tmp_path / "file.yaml")) == settings
    if "device" in type(settings).model_fields:
        told = settings_of(*verb, "--config", str(tmp_path / "file.yaml"), "--device", "cpu")
        assert told == settings.model_copy(update={"device": "cpu"})


def test_a_file_of_another_command_is_refused(tmp_path):
    (tmp_path / "file.yaml").write_text(to_yaml(settings_of("scan", "videos")))
    with pytest.raises(ConfigError, match="of the command 'scan'; carry it out with `featcache run "):
        settings_of("extract", "--config", str(tmp_path / "file.yaml"))


def test_extract_and_plan_share_one_table():
    _, extract, plan = VERBS
    assert extract.flags == plan.flags


def test_every_command_of_a_group_is_a_verb():
    for group in ("probe", "train", "evaluate", "figure"):
        listed = CliRunner().invoke(app, [group, "--help"]).output
        for command in command_names(f"{group}-"):
            assert f" {command.removeprefix(f'{group}-')} " in listed


def test_probes_have_one_class_of_settings_made_of_their_own():
    kind = settings_class("probe-scale-linear")
    settings = parse(kind, {"store": "s", "scale_linear": {"training": {"epochs": 3}}})
    assert settings.scale_linear.training.optimizers == ("adamw", "sgd")  # the probe's own values of the section
    assert settings.scale_linear.training.epochs == 3
    assert settings_class("probe-ridge").model_fields["numbers"].default is True
    assert settings_class("probe-knn") is settings_class("probe-knn")


def test_a_positional_argument_is_called_by_its_own_name():
    help_text, refusal = (
        CliRunner().invoke(app, words) for words in (["train", "scale", "--help"], ["train", "scale"])
    )
    assert "[STORE]" in help_text.output
    assert "Invalid value for STORE" in refusal.output
    assert refusal.exit_code == 2
