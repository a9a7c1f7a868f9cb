"""Cases of the fuzz: each writes one hostile input into a folder and gives the command lines or calls that read it."""

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save

from featcache.backbones.weights import read_state_dict
from featcache.commands.registry import load
from featcache.config import to_yaml
from featcache.data.manifest import Manifest, read_parquet, write_parquet
from featcache.data.sources import list_source
from featcache.data.types import VideoRecord
from featcache.files.base import open_files
from featcache.methods.advise.saved import load_module
from featcache.methods.advise.tmm import read_run
from featcache.networks.settings import TmmSettings
from featcache.networks.tmm import TmmClassifier
from featcache.recipes import SamplingRecipe, to_dict
from featcache.report.cost import read_table
from featcache.store.overlay import Amendment, publish_overlay
from featcache.store.rows import table_bytes
from featcache.testing.stores import StorePlan, make_record, write_store
from featcache.training.checkpoint import Checkpoint, write_checkpoint
from tests.security.hostile import (
    read_plan_table,
    rename_videos,
    replace_bytes,
    replace_overlay,
    replace_rows,
    replace_table,
    seal,
    seal_plan,
    settle,
    unsealed,
)
from tests.security.mutate import hostile_values, pick, spoil_bytes, spoil_table, spoil_value, to_sealable, to_text

Step = list[str] | Callable[[], object]

EXPORTS = ("npy", "webdataset", "parquet", "hf", "fiftyone", "actionformer", "opentad")
OF_VIDEOS = ("npy", "actionformer", "opentad")  # with a file named by each id
SAMPLING = {
    **dict.fromkeys(("zarr", "hdf5", "int8"), SamplingRecipe()),
    "bank": SamplingRecipe(layout="frames", temporal="bank", num_frames=1),  # what localisation exports take
}
VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)


def weights(folder: Path, rng, victim: Path) -> list[Step]:
    """PyTorch files old and new, damaged from outside or in their pickle alone, and safetensors."""
    state = {"a.weight": torch.ones(4, 3), "a.bias": torch.zeros(4, dtype=torch.float16), "n": torch.tensor(3)}
    content = pick(rng, [state, {"state_dict": state, "epoch": 3, "args": [1, "x", None]}, {"model": state}])
    path = folder / f"w{pick(rng, ['.pt', '.pth', '.bin', '.safetensors'])}"
    if path.suffix == ".safetensors":
        data = save(state)
    else:
        sink = io.BytesIO()
        torch.save(content, sink, _use_new_zipfile_serialization=rng.random() < 0.6)
        data = sink.getvalue()
    path.write_bytes(_spoil_pickle(data, rng) if data[:2] == b"PK" and rng.random() < 0.6 else spoil_bytes(data, rng))
    (folder / "empty").mkdir()
    extract = ["extract", str(folder / "empty"), "--backbone", "svt-tiny", "--out", str(folder / "s")]
    return (
        [lambda: read_state_dict(path), [*extract, "--weights", str(path)]]
        if rng.random() < 0.1
        else [lambda: read_state_dict(path)]
    )


def _spoil_pickle(data: bytes, rng) -> bytes:
    """The zip's pickle is damaged, its checksums are right."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(sink, "w") as new:
        for name in old.namelist():
            member = old.read(name)
            if name.endswith(pick(rng, ["data.pkl", "data.pkl", "data.pkl", "byteorder", "version", "data/0"])):
                member = spoil_bytes(member, rng)
            new.writestr(name if rng.random() < 0.97 else "x/" + name, member)
    return sink.getvalue()


def listings(folder: Path, rng, victim: Path) -> list[Step]:
    """CSV, JSONL and Parquet of videos, for a scan; a CSV of arrays, for an import."""
    rows = [
        {"path": f"v{n}.mp4", "id": f"v{n}", "label": "ab"[n % 2], "label.x": 3, "split": "train", "fps": 30}
        for n in range(4)
    ]
    kind = pick(rng, ["csv", "jsonl", "parquet"])
    path = folder / f"list.{kind}"
    if kind == "parquet":
        table = spoil_table(pa.Table.from_pylist(rows), rng, victim)
        data = table_bytes(table)
        path.write_bytes(spoil_bytes(data, rng) if rng.random() < 0.3 else data)
    elif kind == "jsonl":
        spoiled = spoil_value(rows, rng, victim)
        text = "\n".join(to_text(row) for row in (spoiled if isinstance(spoiled, list) else [spoiled]))
        data = text.encode("utf-8", "surrogateescape")
        path.write_bytes(spoil_bytes(data, rng) if rng.random() < 0.3 else data)
    else:
        cells = [list(map(str, rows[0])), *([str(cell) for cell in row.values()] for row in rows)]
        cells[int(rng.integers(5))][int(rng.integers(6))] = str(pick(rng, hostile_values(victim)))[:200_000]
        data = "\n".join(",".join(line) for line in cells).encode("utf-8", "surrogateescape")
        path.write_bytes(spoil_bytes(data, rng) if rng.random() < 0.5 else data)
    steps: list[Step] = [lambda: list_source(path)]
    if kind == "csv":
        arrays(folder / "in", 4)
        steps.append(import_of(folder / "in", folder / "s", "npy", "--listing", str(path)))
    return steps


def arrays(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        np.save(folder / f"v{number}.npy", VALUES)


def import_of(source: Path, out: Path, format_: str, *more: str) -> list[str]:
    return ["import", str(source), "--format", format_, "--backbone", "b", "--out", str(out), *more]


def yamls(folder: Path, rng, victim: Path) -> list[Step]:
    """Settings of any command as ``featcache run`` reads them (they are not carried out), and recipes of an import."""
    from featcache.commands.registry import command_names
    from featcache.exchange.settings import ExportSettings

    text = to_yaml(ExportSettings(store="s", out="o", format="npy", videos=("a", "b")))
    if rng.random() < 0.5:
        shipped = sorted(Path("configs").rglob("*.yaml"))
        text = pick(rng, shipped).read_text()
    import yaml

    path = folder / "x.yaml"
    if rng.random() < 0.6:
        document = spoil_value(yaml.safe_load(text), rng, victim)
        spoiled = to_text(document).encode("utf-8", "surrogateescape")
    else:
        extra = [
            "&a [*a]",
            "a: &x [1,1]\nb: [*x,*x]",
            "[" * 5000,
            "{a: " * 5000,
            "? [1]\n: 2",
            "!!python/name:os.system x",
        ]
        extra += [
            "2001-13-45",
            "0b",
            "0x" + "f" * 5000,
            "9" * 5000,
            "1:99:99:" + "9" * 4500,
            "!!int x",
            "<<: 3",
            "!!binary é",
        ]
        spoiled = (
            (text + "\nzz: " + pick(rng, extra)).encode() if rng.random() < 0.5 else spoil_bytes(text.encode(), rng)
        )
    path.write_bytes(spoiled)
    arrays(folder / "in", 2)
    assignment = f"--set={pick(rng, command_names())}={path.read_bytes()[:300].decode('utf-8', 'replace')}"
    return [
        lambda: to_yaml(load(path)),
        import_of(folder / "in", folder / "s", "npy", "--recipe", str(path)),
        import_of(folder / "in", folder / "t", "npy", assignment.replace("\0", "")),
    ]


def manifests(folder: Path, rng, victim: Path) -> list[Step]:
    """What ``scan`` wrote, changed in its cells, its columns, its metadata or its bytes."""
    videos = tuple(
        VideoRecord(id=f"v{n}", path=f"v{n}.mp4", num_frames=9, fps=3.0, labels={"label": "a"}, split="train")
        for n in range(3)
    )
    path = folder / "m.parquet"
    write_parquet(Manifest(root=str(folder), videos=videos), path)
    if rng.random() < 0.75:
        table = spoil_table(pq.read_table(path, use_threads=False), rng, victim)
        path.write_bytes(table_bytes(table))
    else:
        path.write_bytes(spoil_bytes(path.read_bytes(), rng))
    return [
        lambda: list_source(path),
        lambda: write_parquet(read_parquet(path), folder / "again.parquet"),
    ]


def resealed(folder: Path, rng, victim: Path) -> list[Step]:
    """A store of which a document or table is changed under its right hash, and everything that reads or writes one."""
    store = folder / "s"
    name = pick(rng, list(SAMPLING))
    shutil.copytree(victim.parent / "stores" / name, store)
    kinds = "plan record note overlay feature root videos segments rows bytes ids ids link link"
    match pick(rng, kinds.split()):
        case "plan":
            seal_plan(store, _object(spoil_value(unsealed(store / "g000" / "plan.json"), rng, victim)))
        case "record":
            _reseal(store / "g000" / "commits" / "a" / "00000.json", rng, victim)
            if rng.random() < 0.7:
                settle(store)
        case "note":
            notes = ["plans/000.json", "g000/commits/a/complete.json", "overlays/000.json"]
            _reseal(store / pick(rng, notes), rng, victim)
        case "overlay":
            old = next((store / "overlays").glob("*.parquet"))
            table = spoil_table(pq.read_table(old, use_threads=False), rng, victim)
            replace_overlay(store, spoil_bytes(table_bytes(table), rng) if rng.random() < 0.2 else table_bytes(table))
        case "feature":
            _reseal(store / "features" / "a.json", rng, victim)
        case "root":
            _reseal(store / "featcache.json", rng, victim)
        case "videos" | "segments" as kind:
            table = spoil_table(read_plan_table(store, kind), rng, victim)
            replace_table(store, kind, table)
            if rng.random() < 0.3:
                replace_bytes(store, kind, spoil_bytes(table_bytes(table), rng))
        case "rows":
            rows = next((store / "g000" / "rows").glob("00000-*.parquet"))
            data = table_bytes(spoil_table(pq.read_table(rows, use_threads=False), rng, victim))
            replace_rows(store, spoil_bytes(data, rng) if rng.random() < 0.3 else data)
        case "bytes":
            files = sorted(path for path in store.rglob("*") if path.is_file() and path.stat().st_size)
            path = pick(rng, files)
            path.write_bytes(spoil_bytes(path.read_bytes(), rng))
        case "ids":
            names = [
                str(victim / "settings"),
                "../../victim/settings",
                "../../../../victim/settings",
                "a/../../x",
                "v0001",
            ]
            rename_videos(store, {"v0000": pick(rng, names)})
        case "link":
            folders = sorted(path for path in store.rglob("*") if path.is_dir())
            chosen = pick(rng, folders)
            shutil.rmtree(chosen)
            chosen.symlink_to(victim)
    arrays(folder / "in", 2)
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps({"sampling": to_dict(SAMPLING[name])}))
    file_format = f"--set=file_format={'hdf5' if name == 'hdf5' else 'zarr'}"
    steps: list[Step] = [
        ["info", str(store)],
        ["verify", str(store)],
        ["export", str(store), "--format", pick(rng, EXPORTS), "--out", str(folder / "out")],
        ["export", str(store), "--format", pick(rng, OF_VIDEOS), "--out", str(folder / "files")],
        import_of(folder / "in", store, "npy", "--recipe", str(recipe), "--name", "b", file_format),
        ["remove", str(store), "v0002"],
        ["gc", str(store)],
    ]
    if rng.random() < 0.3:
        steps.append(["probe", "knn", str(store), "-k", "1", "--out", str(folder / "p")])
    return steps


def _object(value):
    value = to_sealable(value)
    return {name: member for name, member in value.items() if name != "checksum"}


def _reseal(path: Path, rng, victim: Path) -> None:
    seal(path, _object(spoil_value(unsealed(path), rng, victim)))


def imports(folder: Path, rng, victim: Path) -> list[Step]:
    """Arrays with sidecars, shards and tables of others."""
    source, kind = folder / "in", pick(rng, ["npy", "json", "tar", "parquet"])
    facts = {"id": "v0", "labels": {"label": "a"}, "split": "train", "fps": 30, "num_frames": 9, "status": "ok"}
    facts["rows"] = {"t0": [0, 1, 2], "t1": [1, 2, 3], "frames": [[0], [1], [2]], "flip": [True, False, None]}
    if kind in ("npy", "json"):
        arrays(source, 2)
        text = to_text(spoil_value(facts, rng, victim)) if kind == "json" else "{}"
        (source / "v0.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        if kind == "npy":
            (source / "v0.npy").write_bytes(spoil_bytes((source / "v0.npy").read_bytes(), rng))
        return [import_of(source, folder / "s", "npy")]
    if kind == "tar":
        array = io.BytesIO()
        np.save(array, VALUES)
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w", format=pick(rng, [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])) as tar:
            for name, data in (
                ("a" * 120 + ".npy", array.getvalue()),
                ("a" * 120 + ".json", to_text(facts).encode()),
                ("b.npy", array.getvalue()),
                ("b.cls", b"3"),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        (folder / "in.tar").write_bytes(spoil_bytes(sink.getvalue(), rng))
        return [import_of(folder / "in.tar", folder / "s", "webdataset")]
    table = pa.table(
        {
            "id": ["a", "a", "b"],
            "feature": pa.array(VALUES.tolist(), pa.list_(pa.float32(), 4) if rng.random() < 0.5 else None),
            "label": ["x", "x", "y"],
            "clip": [0, 1, 0],
            "t0": [0.0, 1.0, 2.0],
            "frames": [[1], [2], [3]],
        }
    )
    data = table_bytes(spoil_table(table, rng, victim))
    (folder / "in.parquet").write_bytes(spoil_bytes(data, rng) if rng.random() < 0.4 else data)
    return [import_of(folder / "in.parquet", folder / "s", "hf")]


def runs(folder: Path, rng, victim: Path) -> list[Step]:
    """Checkpoints, results and tables of trainings."""
    shutil.copytree(victim.parent / "stores" / "run", folder / "run")
    path = (
        folder / "run" / pick(rng, ["checkpoint.json", "checkpoint.json", "result.json", "table.json", "config.yaml"])
    )
    if path.name == "checkpoint.json":
        _reseal(path, rng, victim)
    elif path.suffix == ".json":
        spoiled = spoil_value(json.loads(path.read_text()), rng, victim)
        path.write_bytes(to_text(spoiled).encode("utf-8", "surrogateescape"))
    else:
        path.write_bytes(spoil_bytes(path.read_bytes(), rng))
    step = Checkpoint(step=1, identity={"a": 1}, tensors={"module.a": torch.ones(1)}, facts={})
    figure = [
        "figure",
        "cost",
        str(folder / "run"),
        "--cost",
        "flops",
        "--accuracy",
        "top1",
        "--out",
        str(folder / "c.png"),
    ]
    return [
        lambda: load_module(folder / "run", seed=0, shape=(2, 2, 4)),
        lambda: write_checkpoint(folder / "run", step),
        lambda: read_run(folder / "run"),
        lambda: read_table(folder / "run"),
        figure,
    ]


KINDS = (weights, listings, yamls, manifests, resealed, resealed, imports, runs)


def prepare(folder: Path) -> None:
    """The honest stores and runs that cases spoil copies of."""
    plan = {"num_videos": 6, "failing": {3: "timeout"}, "unusable": {4: "missing"}}
    for name, sampling in SAMPLING.items():
        record = make_record((2, 4), "int8") if name == "int8" else make_record((4,))
        file_format = "hdf5" if name == "hdf5" else "zarr"
        write_store(folder / name, StorePlan(records={"a": record}, **plan), file_format=file_format, sampling=sampling)
        (folder / name / "config").mkdir()
        video = VideoRecord(id="v0001", path="v0001.mp4", labels={"label": "c"}, split="test")
        publish_overlay(open_files(folder / name), [Amendment(video="v0001", record=video)], num_generations=1)
    settings = TmmSettings(hidden=4, out=4, num_blocks=1, temporal_kernel=1, head_hidden=4)
    module = TmmClassifier(settings, width_in=4, grid=2, num_classes=3)
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    facts = {"tmm": {name: getattr(settings, name) for name in settings.__dataclass_fields__}, "width_in": 4}
    write_checkpoint(folder / "run", Checkpoint(step=3, identity={"a": 1}, tensors=tensors, facts=facts))
    (folder / "run" / "result.json").write_text('{"classes": ["a", "b"], "numbers": {"top1": {"value": 0.5}}}')
    cell = {"value": 1.5, "low": 1.0, "high": 2.0}
    table = {"columns": ["flops", "top1"], "rows": [{"name": "a", "flops": cell, "top1": cell, "x": None, "note": ""}]}
    (folder / "run" / "table.json").write_text(json.dumps(table))
    (folder / "run" / "config.yaml").write_text("command: train-tmm\nlabel: label\nbank:\n  store: s\n")
