"""Sees what each layer of a network computes, whatever the network: at the calls of torch's own functions.

Hooks of modules would miss activations that are functions (``functional.relu``), and would show the output of a
normalisation after an activation has changed it in place. Here an output is shown before anything else sees it.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Kind = Literal["convolution", "linear", "normalisation", "activation"]

_CONVOLUTIONS = (
    torch.conv1d, torch.conv2d, torch.conv3d,
    torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d,
)  # fmt: skip
_NORMALISATIONS = (
    functional.batch_norm, functional.layer_norm, functional.group_norm, functional.instance_norm, functional.rms_norm,
)  # fmt: skip
_ACTIVATIONS = (
    functional.relu, torch.relu, torch.relu_, functional.relu6, functional.leaky_relu, functional.elu, functional.gelu,
    functional.silu, functional.mish, functional.hardtanh, functional.hardswish, functional.prelu,
    Tensor.relu, Tensor.relu_,
)  # fmt: skip
KINDS: Mapping[Any, Kind] = MappingProxyType(
    {
        **dict.fromkeys(_CONVOLUTIONS, "convolution"),
        functional.linear: "linear",
        **dict.fromkeys(_NORMALISATIONS, "normalisation"),
        **dict.fromkeys(_ACTIVATIONS, "activation"),
    }
)
"""The functions that count as layers."""


class OnLayer(Protocol):
    """Called with the output of each layer, in the order of the forward pass."""

    def __call__(self, name: str, kind: Kind, output: Tensor, /) -> None:
        """Take an output, which the network may change afterwards.

        Args:
            name: Name of the module, e.g. ``conv2.block1.bn1``; of a function of a module with parts, its name after
                the module's, e.g. ``conv2.block1.relu``. Every further call of one name has its number: ``relu:2``.
            kind: Kind of the function.
            output: The output.
        """


class Watching(TorchFunctionMode):
    """Shows the layers of one forward pass within a ``with`` block.

    On a CPU, convolutions take a batch clip by clip: their workspace, which is as large as input and output together,
    is then that of one clip. The values are the same, up to rounding.
    """

    def __init__(self, network: nn.Module, on_layer: OnLayer, *, num_clips: int = 1) -> None:
        """Prepare for a pass.

        Args:
            network: The network.
            on_layer: Called with each layer.
            num_clips: Number of clips of the batch.
        """
        super().__init__()
        self._network = network
        self._on_layer = on_layer
        self._num_clips = num_clips
        self._inside: list[tuple[str, bool]] = [("", True)]
        self._calls: Counter[str] = Counter()
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        for name, module in self._network.named_modules():
            place = name, next(module.children(), None) is not None
            self._hooks += [
                module.register_forward_pre_hook(lambda *_, place=place: self._inside.append(place)),
                module.register_forward_hook(lambda *_: self._left()),
            ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()

    def __torch_function__(
        self, func: Any, types: Iterable[Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kind = KINDS.get(func)
        call = _clip_by_clip(func, self._num_clips) if kind == "convolution" else func
        output = call(*args, **(kwargs or {}))
        if kind is not None:
            self._on_layer(self._name(func), kind, output)
        return output

    def _left(self) -> None:
        self._inside.pop()

    def _name(self, func: Any) -> str:
        module, has_parts = self._inside[-1]
        name = ".".join(filter(None, (module, func.__name__.strip("_")))) if has_parts or not module else module
        self._calls[name] += 1
        return name if self._calls[name] == 1 else f"{name}:{self._calls[name]}"


def _clip_by_clip(convolve: Callable[..., Tensor], num_clips: int) -> Callable[..., Tensor]:
    """The same convolution in ``num_clips`` parts of the batch, where it runs on a CPU."""

    def call(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if num_clips == 1 or x.device.type != "cpu" or len(x) % num_clips:
            return convolve(x, *args, **kwargs)
        whole: Tensor | None = None
        size = len(x) // num_clips
        for first in range(0, len(x), size):
            part = convolve(x[first : first + size], *args, **kwargs)
            if whole is None:
                whole = part.new_empty((len(x), *part.shape[1:]))
            whole[first : first + size] = part
        assert whole is not None, "a batch has clips"
        return whole

    return call


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that operations make and that are alive at one time, in a ``with`` block.

    Attributes:
        peak: The most bytes so far.
        largest: Bytes of inputs and outputs of the largest single operation, of which a library may hold copies.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        """Begin to count.

        Args:
            known: Tensors that are there already, e.g. the parameters.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self.largest = 0
        self._now = 0
        self._held = {_key(tensor) for tensor in known}

    def __torch_dispatch__(
        self, func: Any, types: Iterable[Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        for tensor in made:
            self._hold(tensor)
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        touched = {_key(each): each.untyped_storage().nbytes() for each in (*given, *made)}
        self.largest = max(self.largest, sum(touched.values()))
        return result

    def _hold(self, tensor: Tensor) -> None:
        key, storage = _key(tensor), tensor.untyped_storage()
        if key not in self._held:
            self._held.add(key)
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._let_go, key, storage.nbytes())

    def _let_go(self, key: int, num_bytes: int) -> None:
        self._held.discard(key)
        self._now -= num_bytes


def _key(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key
