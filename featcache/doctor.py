"""``doctor``: what works on this machine, one finding a part, with the fix where something does not."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

State = Literal["ok", "absent", "broken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report.

    Attributes:
        part: What was examined.
        state: ``ok``; ``absent`` (optional, not installed); ``broken`` (installed, but does not work).
        note: Version, or the fix.
    """

    part: str
    state: State
    note: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def examine() -> list[Finding]:
    """Examine the interpreter, libraries, GPU, decoders, weights and disk."""
    parts: list[Callable[[], Iterator[Finding]]] = [_machine, _libraries, _gpu, _decoders, _weights]
    return [finding for part in parts for finding in part()]


def _machine() -> Iterator[Finding]:
    yield Finding(part="python", state="ok", note=f"{platform.python_version()} on {platform.platform()}")
    yield Finding(part="cores", state="ok", note=str(os.cpu_count()))
    free = shutil.disk_usage(Path.cwd()).free
    yield Finding(part="disk", state="ok", note=f"{free / 1e9:.1f} GB free in the current folder")


def _libraries() -> Iterator[Finding]:
    for name in ("torch", "torchvision", "timm", "open-clip-torch", "av", "zarr", "h5py", "faiss-cpu", "scikit-learn"):
        try:
            yield Finding(part=name, state="ok", note=importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(part=name, state="broken", note=f"not installed; pip install {name}")


def _gpu() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield Finding(part="gpu", state="absent", note="torch sees no GPU; everything runs on CPU")
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        note = f"{torch.cuda.get_device_name(index)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        yield Finding(part=f"gpu {index}", state="ok", note=note)
    if importlib.util.find_spec("pynvml") is None:
        yield Finding(part="gpu driver", state="absent", note="its version is read with: pip install featcache[gpu]")
        return
    import pynvml

    try:
        pynvml.nvmlInit()
        yield Finding(part="gpu driver", state="ok", note=str(pynvml.nvmlSystemGetDriverVersion()))
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        yield Finding(part="gpu driver", state="broken", note=f"{error}; check nvidia-smi")


def _decoders() -> Iterator[Finding]:
    from featcache.data.decoding import available, decoder_info, decoder_names

    for name in decoder_names():
        info, problem = decoder_info(name), available(name)
        exact = "frame-exact" if info.exact else "not frame-exact"
        if problem is None:
            yield Finding(part=f"decoder {info.name}", state="ok", note=f"{exact}: {info.note}")
        else:
            installed = importlib.util.find_spec(info.name) is not None
            yield Finding(part=f"decoder {info.name}", state="broken" if installed else "absent", note=problem)


def _weights() -> Iterator[Finding]:
    from featcache.backbones.weights import weights_folder

    folder = weights_folder()
    files = sorted(path.name for path in folder.glob("*") if path.is_file()) if folder.is_dir() else []
    note = f"{folder}: {', '.join(files) if files else 'empty; files put here are found by name'}"
    yield Finding(part="weights", state="ok", note=note)
