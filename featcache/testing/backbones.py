"""Conformance suite of backbones: requirements for every backbone, from featcache or another package.

A package that offers backbones runs the whole suite on them with::

    from featcache.testing.backbones import BackboneTests

    class TestMine(BackboneTests):
        names = ("my-backbone",)

Each check takes a :class:`Subject` and raises ``AssertionError`` with a readable message.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, get_args

import torch
from torch import Tensor

from featcache.backbones import BACKBONES, Backbone, LayerOutput, WeightsCard, build_backbone
from featcache.backbones.from_file import is_of_file
from featcache.backbones.outputs import record_spec, resolve_recipe, to_records
from featcache.backbones.registry import card_of
from featcache.errors import ConfigError, FeatcacheError, UnknownNameError, WeightsError
from featcache.recipes import Output
from featcache.seeding import seed_for

BATCH = 2
_FRAMES_OF_A_CLIP = 2  # for image backbones on clips


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A backbone with random weights and one batch through it.

    Attributes:
        name: Registry name.
        backbone: The backbone, built with ``weights="random"``.
        pixels: float32 [2, 3, S, S] or [2, T, 3, S, S].
        outputs: Output of every layer.
    """

    name: str
    backbone: Backbone
    pixels: Tensor
    outputs: Mapping[str, LayerOutput]

    @property
    def num_frames(self) -> int:
        """Number of frames per clip given to the backbone; 1 for images."""
        return self.pixels.shape[1] if self.backbone.kind == "video" else 1


@cache
def make_subject(name: str, *, num_frames: int | None = None) -> Subject:
    """Build ``name`` with random weights and run a batch of noise.

    Args:
        name: Registry name.
        num_frames: Number of frames per clip for a video backbone; ``None`` is the card's.
    """
    backbone = build_backbone(name, weights="random")
    size = backbone.card.input_size
    clip = (num_frames or backbone.card.num_frames,) if backbone.kind == "video" else ()
    generator = torch.Generator().manual_seed(seed_for(0, "conformance", name))
    pixels = torch.randn((BATCH, *clip, 3, size, size), generator=generator)
    return Subject(name=name, backbone=backbone, pixels=pixels, outputs=backbone.encode(pixels, backbone.layers))


def _tensors(output: LayerOutput) -> list[Tensor]:
    return [tensor for tensor in (output.map, output.cls) if tensor is not None]


def _same(mine: LayerOutput, theirs: LayerOutput) -> bool:
    left, right = _tensors(mine), _tensors(theirs)
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def the_card_is_filled_in(subject: Subject) -> None:
    """Source, licence and plausible preprocessing are given; the registry's card, if any, is that of the backbone."""
    card = subject.backbone.card
    assert isinstance(card, WeightsCard), "card is no WeightsCard"
    for field in ("source", "license", "file_name"):
        assert getattr(card, field), f"card.{field} is empty"
    assert 0 < card.crop_fraction <= 1, f"card.crop_fraction is {card.crop_fraction}"
    assert len(card.mean) == len(card.std) == 3, "card.mean and card.std are for three channels"
    assert all(0 < value < 1 for value in (*card.mean, *card.std)), "card.mean and card.std are for pixels in [0, 1]"
    assert (card.num_frames == 1) == (subject.backbone.kind == "image"), "an image backbone has one frame, a video more"
    listed = None if is_of_file(subject.name) else card_of(BACKBONES.find(subject.name))
    assert listed in (None, card), "the listed card is not the built one"


def layers_are_named_once(subject: Subject) -> None:
    """Names are unique, none is ``last``, and encode returns the requested layers."""
    layers = subject.backbone.layers
    assert layers, "there are no layers"
    assert len(set(layers)) == len(layers), f"a layer's name is taken twice in {layers}"
    assert "last" not in layers, "'last' means the last layer and is no name"
    assert set(subject.outputs) == set(layers), "encode returned other layers than it was asked for"
    last = subject.outputs[layers[-1]]
    assert _tensors(last), "the default layer is empty"


def records_have_the_shape_they_claim(subject: Subject) -> None:
    """Holds for every layer and output, as a frame bank and as clips; an unsupported output is an error for both."""
    is_video = subject.backbone.kind == "video"
    for layer, output in subject.outputs.items():
        for kind in (name for name in get_args(Output) if name != "logits"):  # which are of no layer
            recipe = resolve_recipe(subject.backbone, subject.name, layer=layer, output=kind)
            frames = subject.num_frames if is_video else _FRAMES_OF_A_CLIP
            possible = output.cls is not None if kind == "cls" else output.map is not None
            try:
                spec = record_spec(subject.backbone, recipe, num_frames=frames, layout="clips")
            except ConfigError:
                assert not possible, f"{layer} {kind}: refused, though encode gives it"
                continue
            assert possible, f"{layer} {kind}: promised, though encode does not give it"
            records = to_records(output, recipe, num_frames=frames)
            rows = BATCH if is_video else BATCH // _FRAMES_OF_A_CLIP
            assert records.shape == (rows, *spec.shape), f"{layer} {kind}: {tuple(records.shape[1:])} is not {spec}"
            assert records.dtype == torch.float32, f"{layer} {kind}: records are {records.dtype}"
            if not is_video:
                frame = record_spec(subject.backbone, recipe, num_frames=1, layout="frames")
                assert spec.shape == (_FRAMES_OF_A_CLIP, *frame.shape), f"{layer} {kind}: a clip is not its frames"


def outputs_are_finite_floats_without_gradients(subject: Subject) -> None:
    """Outputs are float32, finite, batch first, without a graph; a video layer has a map of five axes."""
    for layer, output in subject.outputs.items():
        for tensor in _tensors(output):
            assert tensor.dtype == torch.float32, f"{layer} is {tensor.dtype}"
            assert tensor.shape[0] == BATCH, f"{layer} does not begin with the batch"
            assert not tensor.requires_grad, f"{layer} carries gradients"
            assert bool(tensor.isfinite().all()), f"{layer} is not finite"
        axes = 5 if subject.backbone.kind == "video" else 4
        assert output.map is None or output.map.ndim == axes, f"{layer}: a map has {axes} axes"
        assert output.cls is None or output.cls.ndim == 2, f"{layer}: a class token is [B, C]"
        assert output.map is not None or subject.backbone.kind == "image", f"{layer}: a video layer has a map"


def gradients_reach_the_network(subject: Subject) -> None:
    """If its parameters require gradients they get some, so that the backbone can be fine-tuned."""
    network, layer = subject.backbone.network, subject.backbone.layers[0]
    try:
        network.requires_grad_(True)
        outputs = _tensors(subject.backbone.encode(subject.pixels[:1], [layer])[layer])
        assert all(tensor.requires_grad for tensor in outputs), f"{layer}: encode lets no gradient through"
        torch.stack([tensor.square().mean() for tensor in outputs]).sum().backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        assert any(bool(gradient.any()) for gradient in gradients), f"{layer}: no parameter of network gets a gradient"
    finally:
        network.requires_grad_(False)
        network.zero_grad(set_to_none=True)


def a_second_run_changes_nothing(subject: Subject) -> None:
    """The network is in evaluation mode, without dropout or running statistics."""
    again = subject.backbone.encode(subject.pixels, subject.backbone.layers)
    for layer, output in subject.outputs.items():
        assert _same(output, again[layer]), f"{layer} differs in a second run"


def a_second_build_is_the_same(subject: Subject) -> None:
    """Random weights depend only on the name and do not change the global generator."""
    before = torch.get_rng_state()
    try:
        torch.manual_seed(1234)
        seeded = torch.get_rng_state()
        twin = build_backbone(subject.name, weights="random")
        assert torch.equal(torch.get_rng_state(), seeded), "building drew from the global generator"
    finally:
        torch.set_rng_state(before)
    assert twin.weights_hash == subject.backbone.weights_hash, "two builds have two hashes"
    assert twin.weights_hash.startswith("sha256:"), f"{twin.weights_hash} is no hash"
    layer = twin.layers[-1]
    assert _same(twin.encode(subject.pixels, [layer])[layer], subject.outputs[layer]), "two builds encode differently"


def a_row_does_not_depend_on_the_others(subject: Subject) -> None:
    """At a given batch size the first row is the same to the bit whatever follows it, because batches are padded."""
    padded = subject.pixels.clone()
    padded[1:] = 0
    outputs = subject.backbone.encode(padded, subject.backbone.layers)
    for layer, output in subject.outputs.items():
        for mine, theirs in zip(_tensors(output), _tensors(outputs[layer]), strict=True):
            assert torch.equal(mine[0], theirs[0]), f"{layer}: a row depends on the rows beside it"
            assert not torch.equal(mine[1], theirs[1]), f"{layer}: the input does not matter"


def a_layer_asked_for_alone_is_the_same(subject: Subject) -> None:
    """Stopping early, or reading several layers at once, changes no bit."""
    layers = subject.backbone.layers
    for layer in {layers[0], layers[len(layers) // 2], layers[-1]}:
        alone = subject.backbone.encode(subject.pixels, [layer])
        assert list(alone) == [layer], f"asked for {layer}, got {list(alone)}"
        assert _same(alone[layer], subject.outputs[layer]), f"{layer} differs when it is asked for alone"


def the_classifier_names_its_classes(subject: Subject) -> None:
    """Logits have one column per class; a backbone without classes raises an error."""
    classes = subject.backbone.classes
    if classes is None:
        _message_of(FeatcacheError, lambda: subject.backbone.classify(subject.pixels))
        _message_of(ConfigError, lambda: resolve_recipe(subject.backbone, subject.name, output="logits"))
        return
    recipe = resolve_recipe(subject.backbone, subject.name, output="logits")
    frames = subject.num_frames if subject.backbone.kind == "video" else 1
    spec = record_spec(subject.backbone, recipe, num_frames=frames, layout="clips")
    assert spec.shape == (len(classes),), f"logits of {len(classes)} classes would be stored as {spec}"
    logits = subject.backbone.classify(subject.pixels)
    assert logits.shape == (BATCH, len(classes)), f"{tuple(logits.shape)} logits for {len(classes)} classes"
    assert not logits.requires_grad, "logits carry gradients"


def wrong_weights_are_a_sentence(subject: Subject) -> None:
    """A path without a file is a WeightsError with that path, never other weights."""
    nowhere = "no/such/weights.safetensors"
    message = _message_of(WeightsError, lambda: build_backbone(subject.name, weights=nowhere))
    assert nowhere in message, f"the message does not name the file: {message}"


def an_unknown_layer_is_a_sentence(subject: Subject) -> None:
    """A layer that does not exist is an UnknownNameError."""
    _message_of(UnknownNameError, lambda: resolve_recipe(subject.backbone, subject.name, layer="no_such_layer"))


def _message_of(kind: type[FeatcacheError], call: Callable[[], object]) -> str:
    """The message of the error that ``call`` must raise."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__} where one is due")


CHECKS: tuple[Callable[[Subject], None], ...] = (
    the_card_is_filled_in,
    layers_are_named_once,
    records_have_the_shape_they_claim,
    outputs_are_finite_floats_without_gradients,
    gradients_reach_the_network,
    a_second_run_changes_nothing,
    a_second_build_is_the_same,
    a_row_does_not_depend_on_the_others,
    a_layer_asked_for_alone_is_the_same,
    the_classifier_names_its_classes,
    wrong_weights_are_a_sentence,
    an_unknown_layer_is_a_sentence,
)
"""Every check of the suite."""


class BackboneTests:
    """Test class of pytest for some backbones; inherit from it and name them.

    Attributes:
        names: Registry names, or names from :func:`featcache.use_backbone`; for a family, an example.
        num_frames: Number of frames of the test clips for a video backbone, by name; the card's if not given.
    """

    names: Sequence[Any] = ()
    num_frames: Mapping[str, int] = {}

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """One test for each backbone and check."""
        metafunc.parametrize("check", CHECKS, ids=[check.__name__ for check in CHECKS])
        metafunc.parametrize("name", self.names)

    def test_conforms(self, name: str, check: Callable[[Subject], None]) -> None:
        """The backbone passes the check."""
        check(make_subject(name, num_frames=self.num_frames.get(name)))
