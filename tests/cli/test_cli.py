"""The command line as a user meets it, with exit codes, stdout and stderr.

Each kind of command runs once in a process of its own (``run``); what repeats it runs here (``run_here``).
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.data.motion import MotionSettings, make_motion_set
from tests.cli.helpers import run_here

LITE0 = ("--backbone", "timm/tf_efficientnet_lite0", "--weights", "random", "--set", "features.0.input_size=64")
QUICK = ("--clips", "1", "--frames", "2", "--device", "cpu", "--set", "runtime.threads=1")
VERBS = [
    "quickstart",
    "run",
    "scan",
    "extract",
    "plan",
    "info",
    "verify",
    "gc",
    "backbones",
    "doctor",
    "import",
    "export",
    "probe knn",
    "probe linear",
]


def run(*arguments: object, check: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "featcache", *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = MotionSettings(
        size=64, num_unseen_pictures=20, train_per_picture_motion=1, test_unseen_per_picture_motion=0
    )
    return make_motion_set(tmp_path_factory.mktemp("motion"), settings)


@pytest.fixture(scope="module")
def store(listing: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stores") / "mine"
    done = run("extract", listing, *LITE0, *QUICK, "--out", out, "--json")
    result = json.loads(done.stdout)
    assert result["videos_ok"] == result["videos_total"] == 32
    return out


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_has_an_example(verb: str) -> None:
    result = CliRunner().invoke(app, [*verb.split(), "--help"])
    assert result.exit_code == 0
    assert "Example:" in result.output
    assert f"featcache {verb}" in " ".join(result.output.split())


def test_help_imports_no_torch() -> None:
    code = (
        "import sys, featcache.cli.main as m; from typer.testing import CliRunner; "
        "assert CliRunner().invoke(m.app, ['--help']).exit_code == 0; "
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]


def test_info_verify_and_probes(store: Path, tmp_path: Path) -> None:
    info = json.loads(run("info", store, "--json").stdout)
    (feature,) = info["features"].values()
    assert feature["coverage"]["ok"] == 32
    assert json.loads(run("verify", store, "--json").stdout)["ok"]
    for probe, options in (("knn", ("-k", 3)), ("linear", ("--epochs", 2))):
        done = run_here("probe", probe, store, "--label", "picture", *options, "--json", cwd=tmp_path)
        result = json.loads(done.stdout)
        assert set(result["splits"]) == {"test_seen"}
        assert (tmp_path / result["out"] / "result.json").exists()
        again = run_here("run", tmp_path / result["out"] / "config.yaml", "--json", cwd=tmp_path)
        assert json.loads(again.stdout)["splits"] == result["splits"]
    assert "picture" in run("probe", "knn", store, "--label", "picture", cwd=tmp_path).stdout


def test_a_damaged_store_fails_verification(store: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    victim = next(path for path in copy.rglob("c/*/*") if path.is_file())
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    done = run("verify", copy, check=False)
    assert done.returncode == 1
    assert victim.name in done.stdout


def test_extract_writes_the_yaml_that_repeats_it(store: Path, tmp_path: Path) -> None:
    (config,) = (store / "config").glob("extract-*.yaml")
    data = yaml.safe_load(config.read_text())
    assert data["sampling"]["num_frames"] == 2
    assert data["features"][0]["layer"] != "last"
    done = run_here("run", config, "--set", f"out={tmp_path / 'again'}", "--json")
    assert json.loads(done.stdout)["rows_written"] == 32


def test_print_config_is_the_same_as_the_flags(listing: Path, tmp_path: Path) -> None:
    printed = run("extract", listing, *LITE0, *QUICK, "--out", tmp_path / "x", "--print-config").stdout
    data = yaml.safe_load(printed)
    assert data["sampling"]["num_clips"] == 1
    assert data["runtime"]["threads"] == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("flag", ["--preset", "--sampling"])
def test_flags_override_a_preset(listing: Path, tmp_path: Path, flag: str) -> None:
    options = (flag, "advise", "--crops", 2, "--precision", "float32", "--set", "sampling.test.num_crops=1")
    printed = run_here("extract", listing, *LITE0, *options, "--out", tmp_path / "x", "--print-config").stdout
    data = yaml.safe_load(printed)
    assert (data["sampling"]["layout"], data["sampling"]["num_crops"]) == ("frames", 2)
    assert data["sampling"]["test"]["num_crops"] == 1
    assert data["sampling"]["test"]["spatial"] == "views"
    assert (data["features"][0]["output"], data["features"][0]["precision"]) == ("map", "float32")
    assert data["features"][0]["input_size"] == 64


def test_layers_and_backbones_multiply() -> None:
    """Every layer of every backbone is an array; weights go by backbone."""
    flags = "-b clip-b16 -b mae-b16+dinov2-b14 -w a.pth -w b.pth+c.pth --layer blocks.5 --layer last --output cls"
    shift = "--set 'features.1.mean=[0.4, 0.5, 0.6]'"
    printed = CliRunner().invoke(app, shlex.split(f"extract videos -o out {flags} {shift} --print-config"))
    features = yaml.safe_load(printed.stdout)["features"]
    assert [(one["backbone"], one["weights"], one["layer"], one["output"]) for one in features] == [
        ("clip-b16", "a.pth", "blocks.5", "cls"),
        ("clip-b16", "a.pth", "last", "cls"),
        ("mae-b16+dinov2-b14", "b.pth+c.pth", "blocks.5", "cls"),
        ("mae-b16+dinov2-b14", "b.pth+c.pth", "last", "cls"),
    ]
    assert [one["mean"] for one in features] == [None, [0.4, 0.5, 0.6], None, None]


def test_plan_writes_nothing(listing: Path, tmp_path: Path) -> None:
    options = (listing, *LITE0, *QUICK, "--out", tmp_path / "planned", "--json")
    planned = json.loads(run("plan", *options).stdout)
    assert json.loads(run_here("extract", *options, "--dry-run").stdout)["num_bytes"] == planned["num_bytes"]
    assert planned["rows_to_do"] == 32
    assert planned["num_bytes"] == 32 * 1280 * 2
    assert planned["seconds"] > 0
    assert planned["bottleneck"] in ("decoding", "encoding")
    assert not (tmp_path / "planned").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("extract VIDEOS --out OUT", "no backbone given; add --backbone NAME"),
        ("extract VIDEOS --backbone clip-l4 --out OUT", "unknown backbone 'clip-l4'; did you mean 'clip-l14'?"),
        ("extract VIDEOS --backbone i3d --weights gone.safetensors --out OUT", "gone.safetensors"),
        ("extract nowhere --backbone i3d --weights random --out OUT", "nowhere"),
        ("extract VIDEOS --backbone i3d --weights random --output maps --out OUT", "features.0.output"),
        ("extract VIDEOS -b i3d --set sampling.num_clip=3 --out OUT", "did you mean 'num_clips'?"),
        ("extract VIDEOS -b i3d --preset scle --out OUT", "unknown preset 'scle'; did you mean 'scale'?"),
        ("extract VIDEOS -b i3d -b clip-b16 -w a -w b -w c --out OUT", "3 --weights for 2 --backbone"),
        ("extract VIDEOS -f backbone=i3d --weights random --out OUT", "write weights=... inside --feature"),
        ("extract VIDEOS -f backbone=i3d --layer Mixed_4f --out OUT", "write layer=... inside --feature"),
        (
            "extract VIDEOS -b clip-l14+dinov2-l41 --out OUT",
            "unknown backbone 'dinov2-l41'; did you mean 'dinov2-l14'?",
        ),
        ("extract VIDEOS -f backbone=i3d --output map --out OUT", "write output=... inside --feature"),
        ("extract VIDEOS -f 'backbone=i3d,name=[' --out OUT", "cannot read --feature"),
        ("extract VIDEOS -b i3d --device gpu --out OUT", "give auto, cpu, cuda or cuda:N"),
        ("extract VIDEOS -b i3d -w random --frames 0 --out OUT", "sampling.num_frames is 0"),
        ("extract VIDEOS -b i3d --set runtime.threads=-1 --out OUT", "runtime.threads"),
        ("scan VIDEOS --out OUT.csv", "ends in .parquet"),
        ("quickstart --out FILE/deep", "Not a directory"),
        ("info FILE/deep", "is not a featcache store"),
        ("extract VIDEOS -f i3d --out OUT", "write key=value pairs"),
        ("info VIDEOS", "is not a featcache store"),
        ("probe knn OUT", "is not a featcache store"),
        ("run configs/quickstat.yaml", "did you mean 'configs/quickstart.yaml'?"),
    ],
)
def test_a_mistake_is_one_sentence(listing: Path, tmp_path: Path, arguments: str, sentence: str) -> None:
    places = {"VIDEOS": str(listing.parent), "OUT": str(tmp_path / "out"), "FILE/deep": f"{listing}/deep"}
    done = run_here(*(places.get(word, word) for word in shlex.split(arguments)), check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    text = " ".join(done.stderr.split())
    assert text.startswith("error: ")
    assert sentence in text


def test_a_weight_that_is_out_of_reach_is_one_sentence(listing: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "FEATCACHE_WEIGHTS": str(tmp_path / "weights")}
    command = [sys.executable, "-m", "featcache", "extract", str(listing), "-b", "clip-b32", "-o", str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "--weights" in done.stderr


def test_ctrl_c_loses_nothing(listing: Path, tmp_path: Path) -> None:
    options = ["extract", str(listing), *LITE0, *QUICK, "--out", str(tmp_path / "store"), "--set", "shard_rows=2"]
    process = subprocess.Popen([sys.executable, "-m", "featcache", *options], stderr=subprocess.PIPE, text=True)
    records = tmp_path / "store" / "g000" / "commits"
    deadline = time.monotonic() + 120
    while not list(records.rglob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in " ".join(errors.split())
    assert "Traceback" not in errors
    kept = len(list(records.rglob("*.json")))
    result = json.loads(run_here(*options, "--json").stdout)
    assert kept >= 1
    assert result["videos_ok"] == 32
    assert result["rows_written"] == 32 - 2 * kept


def test_run_finds_shipped_configs(tmp_path: Path) -> None:
    done = run("run", "configs/quickstart.yaml", "--set", "motion.num_frames=3", check=False, cwd=tmp_path)
    assert "motion set num_frames is 3" in " ".join(done.stderr.split())
