"""Weights: finds, reads and checks weights files, and computes the hash that identifies weights.

``default`` looks in this order: in a file that an installed package contains, the weights folder, the hub's local
cache, the hub. ``random`` must be requested by name and is never a fall-back. Reading a file never runs code.
"""

import argparse
import hashlib
import json
import logging
import pickle
import re
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from featcache.backbones.classifier_file import is_classifier, network_part
from featcache.errors import WeightsError
from featcache.files.publish import put_replace
from featcache.machine import weights_folder
from featcache.seeding import seed_for

log = logging.getLogger(__name__)

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pyth", ".pth.tar")
NESTED_UNDER = ("state_dict", "model", "module")
_HUB_ANSWER_SECONDS = 3.0


@contextmanager
def seeded_init(backbone: str) -> Iterator[None]:
    """Draw a network's initial weights with a seed of the backbone's name, and restore the global generator."""
    with torch.random.fork_rng(devices=[]):
        # Only the CPU generator: torch.manual_seed would reseed every GPU as well.
        torch.default_generator.manual_seed(seed_for(0, "weights", backbone))
        yield


def locate(
    weights: str,
    *,
    backbone: str,
    stems: Sequence[str],
    packaged: Path | None = None,
    hub: Sequence[tuple[str, str]] = (),
    origin: str = "",
    published: str = "",
) -> Path | None:
    """Find the weights file for ``weights``.

    Args:
        weights: ``default``, ``random`` or a path.
        backbone: Name of the backbone, for the message.
        stems: File names without suffix to look for in the weights folder.
        packaged: A file that an installed package contains, or that its library has downloaded before.
        hub: ``(repository, file name)`` pairs on the Hugging Face hub, best first.
        origin: Another source of the file, for the message.
        published: Name of the file at that source, for the message; ``<first stem>.safetensors`` if empty.

    Returns:
        The file, or ``None`` for ``random``.

    Raises:
        WeightsError: No file is found; the message says which file to put where.
    """
    if weights == "random":
        return None
    if weights != "default":
        return given_file(weights, backbone=backbone)
    if packaged is not None and packaged.is_file():
        return packaged
    folder = weights_folder()
    for candidate in (folder / f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES):
        if candidate.is_file():
            return candidate
    from_there = f" ({origin})" if origin else ""
    file_name = published or f"{stems[0]}.safetensors"
    remedy = f"put {file_name}{from_there} into {folder}, or pass --weights with a file's path (or random)"
    if not hub:
        raise WeightsError(f"no weights for {backbone} at hand and none to download; {remedy}", backbone=backbone)
    found = _from_hub(hub)
    if isinstance(found, str):
        raise WeightsError(
            f"no weights for {backbone} at hand and the hub gives none ({found}); {remedy}", backbone=backbone
        )
    return found


def given_file(weights: str, *, backbone: str) -> Path:
    """The file that ``weights`` names, if it is neither ``default`` nor ``random``.

    Raises:
        WeightsError: There is no such file.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"weights {weights!r} of {backbone} are no file; give default, random or a file's path", backbone=backbone
        )
    return path


_downloads: ContextVar[bool] = ContextVar("downloads", default=True)


@contextmanager
def without_downloads() -> Iterator[None]:
    """Take only files of this machine within a ``with`` block."""
    token = _downloads.set(False)
    try:
        yield
    finally:
        _downloads.reset(token)


def _from_hub(files: Sequence[tuple[str, str]]) -> Path | str:
    """The first of ``files`` that is in the hub's cache or on the hub, or the reason why there is none."""
    for repository, name in files:
        cached = huggingface_hub.try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    if not _downloads.get():
        return "a dry run does not ask it"
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    # A short request first: the hub's client retries each file for half a minute when there is no network.
    question = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")  # noqa: S310 a constant URL
    try:
        urllib.request.urlopen(question, timeout=_HUB_ANSWER_SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError:
        pass  # any answer will do; files are requested next
    except urllib.error.URLError as error:
        return f"no answer: {error.reason}"
    except OSError as error:
        return f"no answer: {error}"
    reason = ""
    for repository, name in files:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, name))
        except (OSError, ValueError) as error:
            reason = f"{repository}/{name}: {_first_line(error)}"
    return reason


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def read_state_dict(path: Path, *, nested_under: Sequence[str] = NESTED_UNDER) -> dict[str, Tensor]:
    """Read tensors by name from a file with one of :data:`SUFFIXES`, on the CPU.

    A PyTorch file may hold the state dict itself or nest it under a key. Only tensors and plain containers are
    unpickled. Of a whole classifier (:mod:`featcache.backbones.classifier_file`) the network is read.

    Args:
        path: The file.
        nested_under: Keys under which the state dict may be; the first one that exists counts.

    Raises:
        WeightsError: The suffix is unknown, the file is unreadable, or it holds no state dict.
    """
    if not path.name.endswith(SUFFIXES):
        raise WeightsError(f"weights file {path} has an unknown suffix; give one of {', '.join(SUFFIXES)}")
    try:
        if path.suffix == ".safetensors":
            return network_part(load_file(path)) if is_classifier(path) else load_file(path)
        # Only the zip format (PyTorch 1.6 and later) can be mapped. Training scripts leave their parsed arguments
        # beside the tensors: a Namespace holds values and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickle protocols: readable files are read
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle may raise any exception
        raise WeightsError(
            f"weights file {path} cannot be read ({_why_unreadable(error)}); give a safetensors file or a plain state "
            "dict"
        ) from error
    for key in nested_under:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise WeightsError(
            f"weights file {path} holds no state dict, neither itself nor under {' or '.join(nested_under)}; "
            "save module.state_dict() and give that file"
        )
    return dict(content)


def _why_unreadable(error: Exception) -> str:
    """Why a file cannot be read, from the error but without torch's advice to load it by running its code."""
    text = str(error)
    if found := re.search(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)", text, re.ASCII):
        return f"it holds a Python object, {found[1]}, and nothing but tensors and plain values is read"
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in text:
        return "its pickle is damaged, or holds something else than tensors and plain values"
    return f"{type(error).__name__}: {_first_line(error)}" if isinstance(error, LookupError) else _first_line(error)


def match_in_order(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Rename the tensors of ``state`` to those of ``module``, one by one in order.

    Raises:
        WeightsError: The number of tensors or a shape differs.
    """
    theirs = [(name, tensor) for name, tensor in state.items() if not _is_counter(name)]
    ours = [(name, tensor) for name, tensor in module.state_dict().items() if not _is_counter(name)]
    if len(theirs) != len(ours):
        raise WeightsError(f"{source} holds {len(theirs)} tensors, the network {len(ours)}; give another file")
    for (their_name, their_tensor), (name, tensor) in zip(theirs, ours, strict=True):
        if their_tensor.shape != tensor.shape:
            raise WeightsError(
                f"{source} does not fit the network: {their_name} {tuple(their_tensor.shape)} "
                f"is not {name} {tuple(tensor.shape)}; give another file"
            )
    return {name: tensor for (name, _), (_, tensor) in zip(ours, theirs, strict=True)}


def load_strict(
    module: nn.Module, state: Mapping[str, Tensor], *, source: str, may_lack: Sequence[str] = ()
) -> tuple[str, ...]:
    """Load every tensor of ``module`` from ``state``; batch counters may be absent.

    Args:
        module: The network.
        state: Tensors under the network's names.
        source: Description of ``state``, for the message.
        may_lack: Patterns (:mod:`fnmatch`) of further names that may be absent; they keep their values.

    Returns:
        The names that kept their values, without batch counters.

    Raises:
        WeightsError: Names are missing or unexpected, or shapes differ; gives the first few and their number.
    """
    wanted = module.state_dict()
    absent = [name for name in wanted if name not in state and not _is_counter(name)]
    missing = [name for name in absent if not any(fnmatchcase(name, pattern) for pattern in may_lack)]
    unexpected = [name for name in state if name not in wanted and not _is_counter(name)]
    shapes = [
        f"{name} {tuple(state[name].shape)} against {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise WeightsError(f"{source} does not fit the network: {', '.join(problems)}; give a file made for it")
    module.load_state_dict({name: state.get(name, tensor) for name, tensor in wanted.items()})
    return tuple(absent)


def freeze(module: nn.Module) -> nn.Module:
    """Put a module into evaluation mode without gradients; returns it."""
    return module.eval().requires_grad_(requires_grad=False)


def state_hash(module: nn.Module) -> str:
    """``sha256:…`` over the name, dtype, shape and bytes of every parameter and buffer, sorted by name.

    The same tensors have the same hash whatever their file. Non-persistent buffers and batch counters, which no
    evaluation reads, are left out.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_identity_tensors(module)):
        header = f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{','.join(map(str, tensor.shape))}\0"
        digest.update(header.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return f"sha256:{digest.hexdigest()}"


def _identity_tensors(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    return ((name, tensor) for name, tensor in module.state_dict().items() if not _is_counter(name))


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == "num_batches_tracked"


def write_weights(path: Path, network: nn.Module, *, facts: Mapping[str, Any]) -> None:
    """Publish a network as a weights file that :func:`read_state_dict` reads.

    Args:
        path: File to write; its name ends in ``.safetensors``.
        network: Network, of which all parameters and buffers are written.
        facts: JSON-ready values for the file's metadata.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    put_replace(path, save(tensors, metadata={"featcache": json.dumps(facts, sort_keys=True)}))


def hub_files(repository: str) -> list[tuple[str, str]]:
    """The weights files that a repository of the hub may hold, best first."""
    return [(repository, "model.safetensors"), (repository, "pytorch_model.bin")]


def hub_class_names(weights: Path, *, repository: str, num_classes: int) -> tuple[str, ...] | None:
    """Class names from a checkpoint's ``config.json``, beside the weights or, for weights of the hub, on the hub.

    Args:
        weights: The file from which the weights were read.
        repository: Repository on the hub.
        num_classes: Number of columns of the classifier.

    Returns:
        Names in order, or ``None`` if there is no such file or it names no classes.

    Raises:
        WeightsError: The file is not JSON, or names another number of classes.
    """
    path = weights.with_name("config.json")
    if not path.is_file() and f"models--{repository.replace('/', '--')}" in weights.parts:
        try:
            path = Path(huggingface_hub.hf_hub_download(repository, "config.json"))
        except (OSError, ValueError) as error:
            log.warning("no class names of %s: %s", repository, str(error).partition("\n")[0])
    if not path.is_file():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8")).get("id2label")
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise WeightsError(f"{path} beside the weights is not a model configuration; fix or remove it") from error
    if not isinstance(names, dict):
        return None
    if set(names) != {str(index) for index in range(num_classes)}:
        raise WeightsError(
            f"{path} names {len(names)} classes and the classifier has {num_classes}; "
            "put the configuration of these weights beside them"
        )
    return tuple(str(names[str(index)]) for index in range(num_classes))
