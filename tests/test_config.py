"""Settings: YAML and flags say the same thing, and a typo is an error."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from featcache.commands.registry import command_names, load, settings_class
from featcache.commands.sweeps import SweepRow, SweepSettings, row_steps
from featcache.config import apply_overrides, leaves, parse, read_mapping, to_assignments, to_dict, to_yaml
from featcache.errors import ConfigError, FeatcacheError
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.methods.scale.settings import ScaleSettings

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))

LEAST: dict[str, dict[str, Any]] = {
    "scan": {"source": "videos", "out": "videos.parquet"},
    "extract": {"source": "videos", "out": "stores/mine", "features": [{"backbone": "i3d"}]},
    **{name: {"store": "stores/mine"} for name in command_names("probe-")},
    "train-advise": {"bank": {"store": "stores/mine"}},
    "train-tmm": {"bank": {"store": "stores/mine"}},
    "train-r3d50": {"source": "videos"},
    "train-scale": {"sets": {"store": "stores/mine"}},
    "train-svt": {"source": "videos"},
    "train-finetune": {"source": "videos", "backbone": "i3d"},
    "train-pretext": {"source": "videos", "backbone": "i3d", "task": {"name": "rotnet"}},
    "train-distill": {"source": "videos", "students": [{"backbone": "r21d"}], "teachers": ["runs/mine"]},
    "pretext_benchmark": {"tasks": [{"name": "rotnet"}]},
    "evaluate-noise": {"runs": ["runs/mine"]},
    "audit-leaks": {"task": {"name": "rotnet"}},
    "cost-backbone": {"backbone": "i3d"},
    "search": {"store": "stores/mine", "text": "a cat"},
    "classify": {"files": ["a.mp4"], "model": "i3d"},
    "import": {
        "source": "arrays",
        "format": "npy",
        "out": "stores/mine",
        "feature": {"name": "mine", "backbone": "i3d"},
    },
    "merge": {"stores": ["stores/mine"], "out": "stores/merged"},
    "convert": {"store": "stores/mine", "to": "hdf5", "out": "stores/converted"},
    "diff": {"store": "stores/mine", "other_store": "stores/theirs"},
    "export": {"store": "stores/mine", "format": "npy", "out": "arrays"},
    "pipeline": {"steps": [{"command": "scan"}]},
    "sweep": {"title": "t", "steps": [{}], "rows": [{"name": "a"}], "columns": {"x": "0.x"}, "out": "runs"},
    "evaluate-tmm": {"bank": {"store": "stores/mine"}, "run": "runs/tmm"},
    "evaluate-cka": {"source": "videos", "networks": [{"backbone": "i3d"}]},
    "figure-activation": {"bank": {"store": "stores/mine"}, "run": "runs/tmm", "video": "a", "out": "a.png"},
    "figure-attention": {"sources": ["a.mp4"], "networks": {"a": {"backbone": "i3d"}}, "out": "a.png"},
    "figure-cost": {"tables": ["runs"], "out": "a.png"},
    "reproduce": {"paper": "scale", "tables": ["table1"]},
}
"""The least that each command has to be told."""

features = st.builds(
    FeatureSettings,
    backbone=st.sampled_from(["clip-l14", "timm/vit_small_patch16_224.dino", "i3d"]),
    weights=st.sampled_from(["default", "random", "weights/a file.safetensors"]),
    name=st.none() | st.sampled_from(["a", "true", "1"]),
    output=st.sampled_from(["mean", "cls", "tokens", "map"]),
    grid=st.none() | st.integers(1, 14),
    mean=st.none() | st.tuples(*[st.floats(0, 1)] * 3),
    precision=st.sampled_from(["float16", "float32", "int8"]),
)
extract_settings = st.builds(
    ExtractSettings,
    source=st.text(min_size=1).filter(lambda text: text.isprintable()),
    out=st.sampled_from(["stores/mine", "null", "ünïcode"]),
    features=st.lists(features, min_size=1, max_size=3).map(tuple),
    sampling=st.builds(
        SamplingSettings,
        layout=st.sampled_from(["clips", "frames"]),
        num_clips=st.integers(1, 100),
        target_fps=st.none() | st.floats(0.1, 120),
        seed=st.integers(0, 2**40),
    ),
    runtime=st.builds(RuntimeSettings, deadline_seconds=st.floats(0.5, 1e4), device=st.sampled_from(["auto", "cpu"])),
    disk_fraction=st.floats(0.01, 1),
    retry_failed=st.booleans(),
)


@given(extract_settings)
def test_yaml_round_trip(settings: ExtractSettings) -> None:
    assert parse(ExtractSettings, yaml.safe_load(to_yaml(settings))) == settings


@given(extract_settings)
def test_assignments_round_trip(settings: ExtractSettings) -> None:
    assert parse(ExtractSettings, apply_overrides({}, to_assignments(settings))) == settings


def test_yaml_is_complete() -> None:
    settings = ExtractSettings(source="videos", out="store", features=(FeatureSettings(backbone="i3d"),))
    data = yaml.safe_load(to_yaml(settings))
    assert set(data) == set(ExtractSettings.model_fields)
    assert set(data["sampling"]) == set(SamplingSettings.model_fields)
    assert set(data["features"][0]) == set(FeatureSettings.model_fields)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("sampling.num_clip=3", "unknown key 'num_clip'; did you mean 'num_clips'? (in sampling)"),
        ("features.0.backbon=i3d", "unknown key 'backbon'; did you mean 'backbone'? (in features.0)"),
        ("sampling.num_clips=many", "sampling.num_clips: Input should be a valid integer"),
        ("sampling.layout=rows", "sampling.layout: Input should be 'clips' or 'frames' (got 'rows')"),
        ("features=[]", "features is empty; name at least one backbone"),
        ("runtime.deadline_seconds=0", "runtime.deadline_seconds: Input should be greater than 0 (got 0)"),
    ],
)
def test_a_mistake_is_one_sentence(assignment: str, message: str) -> None:
    data = {"source": "videos", "out": "store", "features": [{"backbone": "i3d"}]}
    with pytest.raises(ConfigError) as error:
        parse(ExtractSettings, apply_overrides(data, [assignment]))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("num_clips", "write KEY=VALUE"),
        ("=3", "write KEY=VALUE"),
        ("features.2.backbone=i3d", "'2' is not a position in a list of 1"),
        ("source.path=x", "'path' lies inside a single value"),
        ("source=[", "is no YAML value"),
    ],
)
def test_an_unusable_assignment_is_an_error(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r".") as error:
        apply_overrides({"source": "videos", "features": [{"backbone": "i3d"}]}, [assignment])
    assert message in str(error.value)


def test_yaml_tags_never_run_code(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(f"command: !!python/object/apply:os.system ['touch {tmp_path / 'ran'}']\n")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        read_mapping(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", ": :\n  - {", "\x00"])
def test_a_file_that_is_no_mapping_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("command: [scan]", "unknown command"),
        ("command: scan\nsource: 2024-01-01\nout: a.parquet", "source: .* string"),
        ("command: scan\nsource: &a [*a]\nout: a.parquet", "line 2 refers to itself"),
        ("command: scan\nsource: a\nout: a.csv", "ends in .parquet"),
        ("command: scan\nsource: a\nout: a.parquet\ndeadline_seconds: .inf", "deadline_seconds"),
    ],
)
def test_yaml_values_that_no_setting_has_are_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(FeatcacheError, match=message):
        load(tmp_path / "a.yaml", assignments=["decoder=pyav"])


def test_the_command_must_be_known(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("command: extrakt\n")
    with pytest.raises(FeatcacheError, match="did you mean 'extract'"):
        load(path)
    path.write_text("source: x\n")
    with pytest.raises(ConfigError, match="no key 'command'"):
        load(path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_complete(path: Path) -> None:
    settings = load(path)
    assert to_dict(settings) == read_mapping(path), f"{path.name} leaves keys out or is not literal"


def test_every_command_names_itself() -> None:
    for name in command_names():
        assert settings_class(name).model_fields["command"].default == name


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("command: scan\nout: a\nout: b\n", "key 'out' is given twice, the second time in line 3"),
        ("sampling:\n  seed: 1\n  seed: 1\n", "key 'seed' is given twice, the second time in line 3"),
        ("features:\n- {backbone: a, backbone: b}\n", "key 'backbone' is given twice, the second time in line 2"),
        ("a: 1\n'a': 2\n", "key 'a' is given twice"),
    ],
)
def test_a_key_that_is_given_twice_is_an_error(tmp_path, text, sentence):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=sentence) as caught:
        read_mapping(path)
    assert "settings.yaml" in str(caught.value)


def test_the_same_key_in_two_sections_is_none(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("a: {seed: 1}\nb: {seed: 2}\nc:\n- {seed: 3}\n- {seed: 4}\n")
    assert read_mapping(path) == {"a": {"seed": 1}, "b": {"seed": 2}, "c": [{"seed": 3}, {"seed": 4}]}


def test_a_key_of_a_section_leaves_the_command_s_own_values_of_the_others():
    own = ScaleSettings.model_fields["training"].default
    given = parse(
        ScaleSettings, {"sets": {"store": "s"}, "training": {"epochs": 7, "optimiser": {"betas": [0.5, 0.6]}}}
    )
    assert given.training.model_copy(update={"epochs": own.epochs, "optimiser": own.optimiser}) == own
    assert given.training.optimiser == own.optimiser.model_copy(update={"betas": (0.5, 0.6)})
    quickstart: Any = settings_class("quickstart")
    sections = parse(quickstart, {"temporal": {"tmm": {"num_blocks": 3}}, "motion": {"num_frames": 12}})
    assert sections.temporal.tmm == dataclasses.replace(quickstart().temporal.tmm, num_blocks=3)
    assert sections.motion == dataclasses.replace(quickstart().motion, num_frames=12)


@pytest.mark.parametrize("name", command_names())
def test_a_setting_that_is_given_as_it_is_changes_no_other(name: str) -> None:
    kind = settings_class(name)
    base = parse(kind, LEAST.get(name, {}))
    given = dict(leaves(LEAST.get(name, {}), ""))
    for key, value in leaves(to_dict(base), ""):
        if key not in given:
            assert parse(kind, apply_overrides(LEAST.get(name, {}), [f"{key}={json.dumps(value)}"])) == base, key


def test_a_step_of_a_sweep_keeps_the_command_s_own_values_too():
    sweep = SweepSettings(
        title="epochs",
        steps=({"command": "train-scale", "sets": {"store": "s"}},),
        rows=(SweepRow(name="few", set={"0.training.epochs": 3}),),
        columns={"loss": "0.loss"},
        out="runs/sweep",
    )
    (step,) = row_steps(sweep, sweep.rows[0], folder="runs/sweep/few")
    own = ScaleSettings.model_fields["training"].default
    assert parse(ScaleSettings, step).training == own.model_copy(update={"epochs": 3})
