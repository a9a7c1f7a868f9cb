"""``doctor``: reports what works on this machine, one finding per part, with a fix for each part that does not work.

Every library that may crash, hang or fail on import is tried in a separate process with a deadline; the doctor itself
imports none of them.
"""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from featcache.errors import FeatcacheError
from featcache.machine import num_cores
from featcache.plugins import offered

State = Literal["ok", "absent", "broken"]

DEADLINE_SECONDS = 60.0
_FEW_BYTES = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report.

    Attributes:
        part: Name of the part that was examined.
        state: ``ok``; ``absent`` (optional and not installed); ``broken`` (required and not installed, or not working).
        note: Version, amount, or the problem.
        fix: What to do; empty if nothing is wrong.
    """

    part: str
    state: State
    note: str
    fix: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A check that runs in a child process.

    Attributes:
        part: Name of the part that is examined.
        module: Module without which the part is absent.
        fix: What to do if it is absent or broken, unless the child prints a better fix.
        code: Code that the child runs. It prints the note, a line ``absent`` if the part is absent, and what to do as a
            line ``fix: ...``; it fails if the part is broken.
        package: The distribution whose version is printed; empty if the note is enough.
        optional: Whether featcache works without it.
    """

    part: str
    module: str
    fix: str
    code: str
    package: str = ""
    optional: bool = True


def _library(package: str, *, module: str = "", extra: str = "", code: str = "", optional: bool = True) -> Trial:
    module = module or package
    return Trial(
        part=package,
        module=module,
        fix=f"pip install 'featcache[{extra}]'" if extra else f"pip install {package}",
        code=code or f"import {module}",
        package=package,
        optional=optional,
    )


def _decoder(name: str, package: str) -> Trial:
    code = f"""
import sys
from featcache.data.decoding import DECODERS, available
problem, _, fix = (available({name!r}) or "").partition("; ")
if problem:
    print("fix: " + fix)
    sys.exit(problem)
info = DECODERS.load({name!r})
print(("frame-exact" if info.exact else "not frame-exact") + ": " + info.note)
"""
    fix = "pip install av" if name == "pyav" else f"pip install 'featcache[{name}]'"
    return Trial(part=f"decoder {name}", module=package, fix=fix, code=code, package=package, optional=name != "pyav")


_GATE = """
import importlib.util, sys
if importlib.util.find_spec({module!r}) is None:
    print("absent", {module!r} + " is not installed", "fix: " + {fix!r}, sep=chr(10))
    sys.exit()
"""
_FAISS = """
import importlib.metadata, sys
import numpy, faiss
installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
both = [f"{name} {installed[name]}" for name in ("faiss-cpu", "faiss-gpu") if name in installed]
if len(both) > 1:
    print("fix: pip uninstall faiss-cpu faiss-gpu, then install one of them")
    sys.exit(" and ".join(both) + " are installed over each other")
print(*both)
index = faiss.IndexFlatIP(4)
index.add(numpy.eye(4, dtype="float32"))
assert index.search(numpy.eye(4, dtype="float32"), 1)[1].ravel().tolist() == [0, 1, 2, 3], "a search went wrong"
if not hasattr(faiss, "StandardGpuResources"):
    print("searches on the CPU")
    sys.exit()
import torch
from featcache.evaluation.flat_index import agrees
if not torch.cuda.is_available():
    print("built for GPUs, of which torch sees none: searches on the CPU")
elif agrees(0):
    print("searches on the GPU, which agrees with torch")
else:
    print("searches on the CPU: the GPU gives no search that agrees with torch")
"""
_FFMPEG = """
import av
print(f"{av.ffmpeg_version_info} inside PyAV; no ffmpeg program is needed")
"""
_CUDA = """
import torch
if not torch.cuda.is_available():
    print("absent")
    print(f"torch {torch.__version__} sees no GPU; everything runs on CPU")
    built = torch.version.cuda
    print("fix: " + ("look at nvidia-smi and the driver if there is one" if built else
          "this torch is built without CUDA; install one with it if there is a GPU"))
for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
    ones = torch.ones((64, 64), device=f"cuda:{index}")
    assert bool((ones @ ones == 64).all()), f"GPU {index} multiplies wrongly"
    free, total = torch.cuda.mem_get_info(index)
    print(f"{index}: {torch.cuda.get_device_name(index)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
"""
_NVML = """
import pynvml
try:
    pynvml.nvmlInit()
except pynvml.NVMLError_LibraryNotFound:
    print("absent")
    print("there is no NVIDIA driver")
    print("fix: install it if there is a GPU")
else:
    print(f"driver {pynvml.nvmlSystemGetDriverVersion()}, {pynvml.nvmlDeviceGetCount()} GPUs")
"""
_TRANSFORMERS = """
import sys, transformers
if not transformers.is_torch_available():
    print("fix: pip install --upgrade torch, or another version of transformers")
    sys.exit("transformers refuses this version of torch")
"""
_WEIGHTS = """
import sys
from featcache.machine import weights_folder
folder = weights_folder()
if not folder.is_dir():
    print("absent", f"there is no folder {folder}", f"fix: mkdir -p {folder}, and put files there", sep=chr(10))
    sys.exit()
files = sorted(path.name for path in folder.iterdir() if path.is_file())
print(f"{folder}: {', '.join(files) or 'empty; files put there are found by name'}")
"""

_REGISTRIES = {
    "featcache.backbones": ("backbone", "featcache.backbones.registry:BACKBONES"),
    "featcache.datasets": ("data set", "featcache.data.importers.base:DATASETS"),
    "featcache.decoders": ("decoder", "featcache.data.decoding.base:DECODERS"),
    "featcache.tasks": ("pretext task", "featcache.methods.pretext.task:TASKS"),
    "featcache.probes": ("probe", "featcache.evaluation.probe:PROBES"),
}
"""What a package may offer, by entry-point group: what it is called, and where its registry is."""

REQUIRED = ("torch", "torchvision", "timm", "open-clip-torch", "av", "h5py", "pyarrow", "scikit-learn")
TRIALS: tuple[Trial, ...] = (
    Trial(part="faiss", module="faiss", fix="pip install 'featcache[faiss-cpu]'", code=_FAISS),
    Trial(part="ffmpeg", module="av", fix="pip install --force-reinstall av", code=_FFMPEG, optional=False),
    _decoder("pyav", "av"),
    _decoder("torchcodec", "torchcodec"),
    _decoder("decord", "decord"),
    _library("transformers", extra="video", code=_TRANSFORMERS),
    _library("datasets", extra="exchange"),
    _library("webdataset", extra="exchange"),
    _library("fiftyone", extra="fiftyone"),
    _library("distributed", extra="dask"),
    _library("obstore", extra="buckets"),
    Trial(part="cuda", module="torch", fix="look at nvidia-smi, then at the build of torch", code=_CUDA),
    Trial(part="nvidia-ml", module="pynvml", fix="pip install 'featcache[gpu]'", code=_NVML, package="nvidia-ml-py"),
    Trial(part="weights", module="featcache", fix="make the folder readable, or set FEATCACHE_WEIGHTS", code=_WEIGHTS),
)


def plugin_trials() -> list[Trial]:
    """One check of each entry that a package offers from outside."""
    return [
        Trial(
            part=f"plug-in {place.name}",
            module="featcache",
            fix=f"repair or uninstall {place.origin}",
            code=f"from featcache.plugins import import_target\n"
            f"import_target({registry!r}).load({place.name!r})\nprint({f'{kind} of {place.origin}'!r})",
        )
        for group, (kind, registry) in _REGISTRIES.items()
        for place in offered(group)
    ]


def examine(
    trials: Sequence[Trial] | None = None, *, deadline_seconds: float = DEADLINE_SECONDS, folder: Path | None = None
) -> list[Finding]:
    """Examine the interpreter, libraries, decoders, GPU, weights, plug-ins and disk.

    Args:
        trials: Checks to run in child processes, several at a time; ``None``: all of them.
        deadline_seconds: Time limit of each check.
        folder: An existing folder, in which the disk is tried with a few small files; ``None``: only its free space is
            looked at, in the current folder.
    """
    trials = (*TRIALS, *plugin_trials()) if trials is None else trials
    with ThreadPoolExecutor(max_workers=num_cores()) as pool:
        tried = list(pool.map(lambda trial: attempt(trial, deadline_seconds=deadline_seconds), trials))
    return [*_machine(), *_required(), *tried, _disk(folder)]


def attempt(trial: Trial, *, deadline_seconds: float = DEADLINE_SECONDS) -> Finding:
    """Run a trial in a child process and return its finding; whatever the child does, this returns in time."""
    # Files, not pipes: a grandchild that survives would keep a pipe open and the reader waiting.
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        child = subprocess.Popen(
            # -P: a folder "datasets" in the current folder must not be taken for the library.
            [sys.executable, "-P", "-c", _GATE.format(module=trial.module, fix=trial.fix) + trial.code],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=complained,
            start_new_session=True,  # a process group, which can be killed as a whole
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            code: int | None = child.wait(deadline_seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end_group(child)
        lines, complaint = _lines(said), _lines(complained)
    fix = next((line.removeprefix("fix: ") for line in lines if line.startswith("fix: ")), "")
    notes = [line for line in lines if line != "absent" and not line.startswith("fix: ")]
    state: State = "ok"
    if code == 0 and "absent" in lines:
        state = "absent" if trial.optional else "broken"
    elif code != 0:
        state, notes = "broken", [_ending(code, complaint, deadline_seconds)]
        # A package that is installed and does not work has to be reinstalled.
        fix = fix or trial.fix.replace("pip install ", "pip install --force-reinstall ", 1)
    version = _version(trial.package) if trial.package else ""
    return Finding(part=trial.part, state=state, note=", ".join(filter(None, [version, "; ".join(notes)])), fix=fix)


def _ending(code: int | None, complaint: list[str], deadline_seconds: float) -> str:
    """Describe how a child failed."""
    if code is None:
        return f"gives no answer within {deadline_seconds:g} seconds"
    if code < 0:
        return f"crashes the interpreter ({signal.Signals(-code).name})"
    return complaint[-1] if complaint else f"ends with exit code {code}"


def _lines(file: IO[bytes]) -> list[str]:
    file.seek(0)
    return [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and every process that it has started, and collect it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # no process is left
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _machine() -> Iterator[Finding]:
    yield Finding(part="python", state="ok", note=f"{platform.python_version()} on {platform.platform()}")
    usable, there = num_cores(), os.cpu_count() or 1
    yield Finding(part="cores", state="ok", note=f"{usable}" if usable >= there else f"{usable} of {there} may be used")


def _required() -> Iterator[Finding]:
    """Libraries that every command needs; a broken one is noticed at once, so only the versions are reported."""
    for name in REQUIRED:
        version = _version(name)
        state: State = "ok" if version else "broken"
        fix = "" if version else f"pip install {name}"
        yield Finding(part=name, state=state, note=version or "is not installed", fix=fix)


def _disk(folder: Path | None) -> Finding:
    free = shutil.disk_usage(folder or Path.cwd()).free
    note = f"{free / 1e9:.1f} GB free in {folder or 'the current folder'}"
    if free < _FEW_BYTES:
        return Finding(part="disk", state="broken", note=note, fix="write the store elsewhere, or make room")
    if folder is None:
        return Finding(part="disk", state="ok", note=note)
    from featcache.files import disks

    try:
        offer = disks.examine(folder)
    except FeatcacheError as error:
        return Finding(part="disk", state="broken", note=f"{note}; {error}", fix="write the store elsewhere")
    return Finding(part="disk", state="ok", note=f"{note}; {offer.note}")
