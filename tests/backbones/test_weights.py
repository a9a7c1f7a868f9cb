"""Weight files: where they are looked for, what is refused, and the hash that identifies them."""

import argparse
import hashlib
import struct
import urllib.error
import urllib.request

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from featcache import machine
from featcache.backbones import weights
from featcache.backbones.weights import (
    load_strict,
    locate,
    match_in_order,
    read_state_dict,
    seeded_init,
    state_hash,
)
from featcache.errors import WeightsError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    place = tmp_path / "weights"
    place.mkdir()
    monkeypatch.setenv("FEATCACHE_WEIGHTS", str(place))
    monkeypatch.setattr(weights.huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    return place


def network():
    with seeded_init("test"):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


class TestLocate:
    def test_random_needs_no_file(self):
        assert locate("random", backbone="x", stems=["x"]) is None

    def test_a_path_is_taken_as_it_is(self, tmp_path):
        file = tmp_path / "mine.pth"
        file.write_bytes(b"")
        assert locate(str(file), backbone="x", stems=["x"]) == file

    def test_a_path_that_is_no_file(self, tmp_path):
        with pytest.raises(WeightsError, match=r"weights '.*' of x are no file; give default, random or a file's path"):
            locate(str(tmp_path), backbone="x", stems=["x"])

    @pytest.mark.parametrize("suffix", weights.SUFFIXES)
    def test_default_looks_in_the_weights_folder(self, folder, suffix):
        file = folder / f"arch.tag{suffix}"
        file.write_bytes(b"")
        assert locate("default", backbone="x", stems=["arch.tag"]) == file

    def test_a_packaged_file_comes_first(self, folder, tmp_path):
        (folder / "x.pth").write_bytes(b"")
        packaged = tmp_path / "packaged.pth"
        assert locate("default", backbone="x", stems=["x"], packaged=packaged) == folder / "x.pth"
        packaged.write_bytes(b"")
        assert locate("default", backbone="x", stems=["x"], packaged=packaged) == packaged

    def test_nothing_found_says_which_file_to_put_where(self, folder):
        with pytest.raises(WeightsError) as caught:
            locate("default", backbone="x", stems=["stem"], origin="the moon")
        assert str(caught.value) == (
            f"no weights for x at hand and none to download; put stem.safetensors (the moon) into {folder}, "
            "or pass --weights with a file's path (or random)"
        )

    def test_no_network_is_a_sentence_after_one_question(self, folder, monkeypatch):
        asked = []

        def unreachable(request, *, timeout):
            asked.append(timeout)
            raise urllib.error.URLError("no route to host")

        monkeypatch.setattr(urllib.request, "urlopen", unreachable)
        monkeypatch.setattr(weights.huggingface_hub, "hf_hub_download", lambda *_: pytest.fail("tried to download"))
        with pytest.raises(WeightsError, match=rf"no answer: no route to host.*put x.safetensors into {folder}"):
            locate("default", backbone="x", stems=["x"], hub=[("owner/x", "a.safetensors"), ("owner/x", "b.bin")])
        assert len(asked) == 1
        assert asked[0] <= 5

    def test_offline_mode_is_respected(self, monkeypatch):
        monkeypatch.setattr(weights.huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("asked the network"))
        with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
            locate("default", backbone="x", stems=["x"], hub=[("owner/x", "a.safetensors")])

    def test_the_hub_is_asked_file_by_file(self, tmp_path, monkeypatch):
        class Answer:
            def close(self):
                pass

        def download(repository, name):
            if name == "a.safetensors":
                raise FileNotFoundError("404: no such entry.\nmore")
            return str(tmp_path / repository / name)

        monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Answer())
        monkeypatch.setattr(weights.huggingface_hub, "hf_hub_download", download)
        files = [("x", "a.safetensors"), ("x", "b.bin")]
        assert locate("default", backbone="x", stems=["x"], hub=files) == tmp_path / "x" / "b.bin"
        with pytest.raises(WeightsError, match=r"the hub gives none \(x/a.safetensors: 404: no such entry\)"):
            locate("default", backbone="x", stems=["x"], hub=files[:1])

    def test_the_cache_of_the_hub_is_used_without_network(self, tmp_path, monkeypatch):
        cached = str(tmp_path / "cached.safetensors")
        monkeypatch.setattr(weights.huggingface_hub, "try_to_load_from_cache", lambda *_: cached)
        monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("asked the network"))
        assert str(locate("default", backbone="x", stems=["x"], hub=[("x", "y")])) == cached

    def test_the_folder_has_a_default(self, monkeypatch, tmp_path):
        monkeypatch.delenv("FEATCACHE_WEIGHTS")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert machine.weights_folder() == tmp_path / ".cache" / "featcache" / "weights"


class TestRead:
    @pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pyth"])
    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("nested", [None, "state_dict", "model"])
    def test_torch_files(self, tmp_path, suffix, zipped, nested):
        state = network().state_dict()
        file = tmp_path / f"w{suffix}"
        content = state if nested is None else {nested: state, "epoch": 3}
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        read = read_state_dict(file)
        assert list(read) == list(state)
        assert all(torch.equal(read[name], state[name]) for name in state)

    def test_nested_where_the_caller_says(self, tmp_path):
        state, file = network().state_dict(), tmp_path / "w.pth"
        torch.save({"student": {"a": torch.ones(1)}, "teacher": state, "args": argparse.Namespace(lr=0.1)}, file)
        read = read_state_dict(file, nested_under=("ema", "teacher"))
        assert list(read) == list(state)
        assert list(read_state_dict(file, nested_under=("student", "teacher"))) == ["a"]
        with pytest.raises(WeightsError, match="neither itself nor under ema or model; save"):
            read_state_dict(file, nested_under=("ema", "model"))

    def test_arguments_beside_the_tensors_may_not_hold_code(self, tmp_path):
        file = tmp_path / "w.pth"
        torch.save({"model": {"a": torch.ones(1)}, "args": argparse.Namespace(path=tmp_path)}, file)
        with pytest.raises(WeightsError, match="cannot be read"):
            read_state_dict(file)

    def test_code_in_a_file_is_not_run(self, tmp_path):
        class Bomb:
            def __reduce__(self):
                return (pytest.fail, ("the file ran code",))

        file = tmp_path / "bomb.pth"
        torch.save({"a": Bomb()}, file)
        with pytest.raises(WeightsError, match="cannot be read"):
            read_state_dict(file)

    @pytest.mark.parametrize("suffix", weights.SUFFIXES)
    @pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 and then nothing"])
    def test_garbage(self, tmp_path, suffix, content):
        file = tmp_path / f"garbage{suffix}"
        file.write_bytes(content)
        with pytest.raises(WeightsError, match=r"garbage.* cannot be read"):
            read_state_dict(file)

    def test_truncated(self, tmp_path):
        for name, save in (("w.safetensors", save_file), ("w.pth", torch.save)):
            file = tmp_path / name
            save(dict(network().state_dict()), file)
            file.write_bytes(file.read_bytes()[:-50])
            with pytest.raises(WeightsError, match="cannot be read"):
                read_state_dict(file)

    def test_something_else_inside(self, tmp_path):
        file = tmp_path / "w.pth"
        torch.save({"epoch": 3}, file)
        with pytest.raises(WeightsError, match="holds no state dict"):
            read_state_dict(file)

    def test_unknown_suffix(self, tmp_path):
        with pytest.raises(WeightsError, match=r"unknown suffix; give one of .safetensors, .pth"):
            read_state_dict(tmp_path / "w.npz")


class TestLoad:
    def test_every_tensor_arrives(self):
        source, target = network(), network()
        nn.init.constant_(source[0].weight, 3.0)
        source[1].running_mean.fill_(2.0)
        load_strict(target, source.state_dict(), source="w")
        assert state_hash(target) == state_hash(source)

    def test_batch_counters_may_be_absent(self):
        state = {name: value for name, value in network().state_dict().items() if "num_batches" not in name}
        load_strict(network(), state, source="w")

    def test_what_may_be_absent_stays(self):
        source, target = network(), network()
        nn.init.constant_(source[0].weight, 3.0)
        nn.init.constant_(target[1].weight, 5.0)
        state = {name: value for name, value in source.state_dict().items() if name not in ("1.weight", "1.bias")}
        assert load_strict(target, state, source="w", may_lack=("1.*",)) == ("1.weight", "1.bias")
        assert (target[0].weight == 3).all()
        assert (target[1].weight == 5).all()
        assert load_strict(target, source.state_dict(), source="w", may_lack=("1.*",)) == ()
        with pytest.raises(WeightsError, match=r"1 missing \(1.bias\)"):
            load_strict(network(), state, source="w", may_lack=("1.weight",))

    def test_half_precision_files_are_widened(self):
        net = network()
        load_strict(net, {name: value.half() for name, value in net.state_dict().items()}, source="w")
        assert net[0].weight.dtype == torch.float32

    def test_the_report_names_the_first_few_and_counts(self):
        state = network().state_dict()
        for name in ("1.weight", "1.bias", "1.running_mean", "1.running_var"):
            del state[name]
        state |= {"2.weight": torch.zeros(1), "0.bias": torch.zeros(7)}
        with pytest.raises(WeightsError) as caught:
            load_strict(network(), state, source="file w")
        assert str(caught.value) == (
            "file w does not fit the network: 4 missing (1.weight, 1.bias, 1.running_mean, …), "
            "1 unexpected (2.weight), 1 of another shape (0.bias (7,) against (4,)); give a file made for it"
        )

    def test_in_order(self):
        source = network()
        renamed = {f"tensor{index}": value for index, value in enumerate(source.state_dict().values()) if index != 6}
        target = network()
        nn.init.zeros_(target[0].weight)
        load_strict(target, match_in_order(target, renamed, source="w"), source="w")
        assert state_hash(target) == state_hash(source)

    def test_in_order_checks_number_and_shapes(self):
        state = dict(network().state_dict())
        with pytest.raises(WeightsError, match="holds 5 tensors, the network 6"):
            match_in_order(network(), {name: value for name, value in state.items() if name != "0.bias"}, source="w")
        with pytest.raises(WeightsError, match=r"0.bias \(5,\) is not 0.bias \(4,\)"):
            match_in_order(network(), state | {"0.bias": torch.zeros(5)}, source="w")


class TestHash:
    def test_golden(self):
        net = nn.Linear(2, 1)
        with torch.no_grad():
            net.weight.copy_(torch.tensor([[1.0, -2.0]]))
            net.bias.fill_(0.5)
        written = b"bias\0float32\x001\0" + struct.pack("<f", 0.5)
        written += b"weight\0float32\x001,2\0" + struct.pack("<ff", 1.0, -2.0)
        golden = "sha256:ab70dffb01fe726d1548807a925c1c0abc3f317208705e5bf4d024005d8ca88a"
        assert state_hash(net) == golden == f"sha256:{hashlib.sha256(written).hexdigest()}"

    def test_any_bit_name_dtype_or_shape_changes_it(self):
        net = network()
        before = state_hash(net)
        assert before == state_hash(network())
        net[1].running_var[2] = torch.nextafter(net[1].running_var[2], torch.tensor(9.0))
        assert state_hash(net) != before
        assert state_hash(network().double()) != before
        assert state_hash(nn.Sequential(*reversed(list(network())))) != before
        flat = network()
        flat[0].weight = nn.Parameter(flat[0].weight.reshape(4, 27))
        assert state_hash(flat) != before

    def test_counters_and_non_persistent_buffers_do_not_count(self):
        net = network()
        before = state_hash(net)
        net[1].num_batches_tracked.fill_(7)
        net.register_buffer("scratch", torch.ones(3), persistent=False)
        assert state_hash(net) == before

    def test_the_container_does_not_count(self, tmp_path):
        state = dict(network().state_dict())
        nn.init.normal_(state["0.weight"], generator=torch.Generator().manual_seed(3))
        save_file(state, tmp_path / "w.safetensors")
        torch.save({"model": dict(reversed(list(state.items())))}, tmp_path / "w.pth")
        hashes = set()
        for name in ("w.safetensors", "w.pth"):
            net = network()
            load_strict(net, read_state_dict(tmp_path / name), source=name)
            hashes.add(state_hash(net))
        assert len(hashes) == 1
        assert hashes != {state_hash(network())}


def test_random_weights_are_the_same_in_every_process():
    with seeded_init("test"):
        drawn = torch.rand(3).tolist()
    assert drawn == [0.9017631411552429, 0.001971006393432617, 0.6103830337524414]


def test_random_weights_depend_on_the_name():
    with seeded_init("other"):
        other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert state_hash(other) != state_hash(network())
