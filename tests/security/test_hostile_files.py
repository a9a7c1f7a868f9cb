"""Files that are no more than damaged or absurd: weights, listings, YAML, manifests, checkpoints. One sentence each."""

import io
import json
import pickle
import resource
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from featcache.backbones.weights import read_state_dict
from featcache.config import apply_overrides, read_json, read_mapping, read_yaml
from featcache.data.manifest import VideoRecord, is_manifest, read_parquet, videos_to_table
from featcache.data.parquet import UnreadableTableError, max_rows, read_table
from featcache.data.sources import list_source
from featcache.errors import ConfigError, CorruptStoreError, ExchangeError, FeatcacheError, ManifestError, WeightsError
from featcache.files.sealed import seal
from featcache.training.checkpoint import Checkpoint, read_checkpoint, taking_up, write_checkpoint
from featcache.training.identity import Identity
from featcache.training.logs import read_log
from tests.exchange.stores import bring
from tests.security.hostile import bomb, unsealed
from tests.security.mutate import spoil_bytes

DEEP = "[" * 100_000
DIGITS = "9" * 5000


def zipped(path, *, pickled):
    """A PyTorch file with another pickle in it."""
    sink = io.BytesIO()
    torch.save({"a": torch.ones(3)}, sink)
    with zipfile.ZipFile(sink) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))


class TestWeights:
    @pytest.mark.parametrize("is_zip", [True, False])
    def test_whatever_a_damaged_file_raises_is_a_sentence(self, tmp_path, is_zip):
        """On files damaged so, torch raises a dozen kinds of errors."""
        sink = io.BytesIO()
        content = {"state_dict": {"a": torch.ones(4), "b": torch.zeros(2, 2)}, "epoch": 3, "args": [1, None, "x"]}
        torch.save(content, sink, _use_new_zipfile_serialization=is_zip)
        rng = np.random.default_rng(0)
        path = tmp_path / "w.pt"
        refused = {}
        for _ in range(300):
            path.write_bytes(spoil_bytes(sink.getvalue(), rng))
            try:
                read_state_dict(path)
            except WeightsError as error:
                refused[str(error)] = type(error.__cause__)
        assert not [message for message in refused if "weights_only" in message or len(message.splitlines()) != 1]
        assert len(set(refused.values())) >= 4

    def test_files_whose_pickle_alone_is_damaged(self, tmp_path):
        sink = io.BytesIO()
        torch.save({"a": torch.ones(3)}, sink)
        with zipfile.ZipFile(sink) as old:
            whole = old.read(next(name for name in old.namelist() if name.endswith("data.pkl")))
        rng = np.random.default_rng(1)
        refused = set()
        for _ in range(300):
            zipped(tmp_path / "w.pt", pickled=spoil_bytes(whole, rng))
            try:
                read_state_dict(tmp_path / "w.pt")
            except WeightsError as error:
                refused.add(type(error.__cause__).__name__)
        assert refused - {"UnpicklingError", "RuntimeError", "ValueError", "OSError", "EOFError"}, "those were known"

    def test_the_advice_to_load_unsafely_is_not_passed_on(self, tmp_path):
        for data in (pickle.dumps(FeatcacheError, protocol=2), pickle.dumps({"a": ValueError("x")}, protocol=2)):
            (tmp_path / "w.pt").write_bytes(data)
            with pytest.raises(WeightsError) as caught:
                read_state_dict(tmp_path / "w.pt")
            message = str(caught.value)
            assert "weights_only" not in message
            assert "allowlist" not in message
            zipped(tmp_path / "w.pt", pickled=data)
            with pytest.raises(WeightsError, match=r"holds a Python object, [\w.]+, and nothing but tensors"):
                read_state_dict(tmp_path / "w.pt")

    def test_names_that_are_no_texts(self, tmp_path):
        torch.save({3: torch.ones(1)}, tmp_path / "w.pt")
        with pytest.raises(WeightsError, match="holds no state dict"):
            read_state_dict(tmp_path / "w.pt")


class TestListings:
    @pytest.mark.parametrize("line", [DEEP, '{"path": ' + DIGITS + "}", '{"path": ' + DEEP + "}", "[]", "3"])
    def test_jsonl_of_great_depth_and_of_many_digits(self, tmp_path, line):
        (tmp_path / "a.jsonl").write_text('{"path": "a.mp4"}\n' + line)
        with pytest.raises(ManifestError, match="line 2"):
            list_source(tmp_path / "a.jsonl")

    def test_parquet_of_a_hundred_million_rows_in_little(self, tmp_path):
        path = tmp_path / "a.parquet"
        path.write_bytes(bomb(100_000_000, path="a.mp4"))
        assert path.stat().st_size < 1 << 20
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(ManifestError, match=r"says it has \d+ rows in \d+ bytes"):
            list_source(path)
        path.write_bytes(path.read_bytes().replace(b"path", b"id\0\0"))
        with pytest.raises(ExchangeError):
            bring(path, tmp_path / "s", "hf")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "less than 200 MB more"

    def test_lists_of_many_values_in_little(self, tmp_path):
        zeros = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(513 << 17, np.int8)), 1 << 17)
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"id": ["a"] * len(zeros), "feature": zeros}), path, compression="zstd")
        with pytest.raises(ExchangeError, match=r"says that column \S+ has \d+ values"):
            bring(path, tmp_path / "s", "hf")

    def test_honest_tables_of_many_rows_are_read(self):
        table = pa.table({"path": [f"videos/{number:07d}.mp4" for number in range(200_000)]})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", compression_level=19, use_dictionary=False)
        data = sink.getvalue().to_pybytes()
        assert len(data) * 16 > len(table), "well below what is refused"
        assert read_table(data) == table
        assert max_rows(0) == 1 << 20

    @pytest.mark.parametrize("data", [b"", b"PAR1", b"x" * 100, b"PAR1" + bytes(100) + b"PAR1"])
    def test_no_parquet(self, tmp_path, data):
        (tmp_path / "a.parquet").write_bytes(data)
        with pytest.raises(UnreadableTableError):
            read_table(data)
        with pytest.raises(ManifestError, match="not a Parquet file"):
            list_source(tmp_path / "a.parquet")
        assert not is_manifest(tmp_path / "a.parquet")

    def test_columns_there_twice_and_texts_that_are_none(self, tmp_path):
        path = tmp_path / "a.parquet"
        twice = pa.table([pa.array(["a"]), pa.array(["b"])], names=["path", "path"])
        pq.write_table(twice, path)
        with pytest.raises(ManifestError, match="has the column 'path' twice"):
            list_source(path)
        pq.write_table(pa.table({"id": ["a"], "feature": [[1.0]], "label": ["x"]}), path)
        table = pq.read_table(path, use_threads=False)
        pq.write_table(table.append_column("label", table.column("label")), path)
        with pytest.raises(ExchangeError, match="has the column 'label' twice"):
            bring(path, tmp_path / "s", "hf")
        not_utf8 = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"], pa.binary()).buffers())
        pq.write_table(pa.table({"path": not_utf8}), path)
        with pytest.raises(ManifestError, match="UTF"):
            list_source(path)


class TestFacts:
    @pytest.mark.parametrize("name", ["num_frames", "height", "num_bytes", "fps", "duration_seconds"])
    @pytest.mark.parametrize("value", ["1" + "0" * 400, "1e999", "-5e300", '"1e400"', '"nan"', DIGITS])
    def test_numbers_that_are_none(self, tmp_path, name, value):
        (tmp_path / "in").mkdir()
        np.save(tmp_path / "in" / "a.npy", np.ones((2, 3), np.float32))
        (tmp_path / "in" / "a.json").write_text(f'{{"{name}": {value}}}')
        if name in ("fps", "duration_seconds") and value == "-5e300":
            return  # a number, if a strange one
        with pytest.raises(ExchangeError, match=name if value != DIGITS else "not JSON"):
            bring(tmp_path / "in", tmp_path / "s")

    def test_half_a_surrogate_pair_is_no_text(self, tmp_path):
        (tmp_path / "in").mkdir()
        np.save(tmp_path / "in" / "a.npy", np.ones((2, 3), np.float32))
        for text in ('{"split": "\\ud800"}', '{"labels": {"label": "\\ud800"}}', '{"labels": {"\\ud800": "x"}}'):
            (tmp_path / "in" / "a.json").write_text(text)
            with pytest.raises(ExchangeError, match="half a surrogate pair"):
                bring(tmp_path / "in", tmp_path / "s")


YAML = {
    "deep": DEEP,
    "deep mappings": "{a: " * 5000,
    "deeper than settings": "a: " + "[" * 60 + "]" * 60,
    "digits": f"a: {DIGITS}",
    "hexadecimal digits": "a: 0x" + "f" * 5000,
    "more than 64 bits": "a: 99999999999999999999",
    "references": "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 25)),
    "itself": "a: &a [*a]",
    "no date": "a: 2001-13-45",
    "no number": "a: !!int 0b",
    "no float": "a: !!float x",
    "no set": "a: !!omap 3",
    "code": "a: !!python/object/apply:os.system [true]",
}


class TestYaml:
    @pytest.mark.parametrize("name", YAML)
    def test_files_and_assignments(self, tmp_path, name):
        (tmp_path / "x.yaml").write_text(YAML[name])
        with pytest.raises(ConfigError) as caught:
            read_mapping(tmp_path / "x.yaml")
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 1000
        with pytest.raises(ConfigError):
            apply_overrides({}, [f"k={YAML[name].removeprefix('a: ') if name != 'references' else YAML[name]}"])

    def test_a_position_of_many_digits_is_a_name(self):
        for key in (f"a.{DIGITS}", "a.²"):
            with pytest.raises(ConfigError, match="is not a position in a list"):
                apply_overrides({"a": [1]}, [f"{key}=1"])

    def test_plain_values_are_what_they_were(self):
        text = "a: 1\nb: [1.5, x, true, null, 2001-01-02]\nc: {d: -9223372036854775807, e: 0x1f}"
        assert read_yaml("a: &a [1, {b: 2}]\nc: [*a, *a]")["c"] == [[1, {"b": 2}]] * 2
        assert read_yaml(text)["c"] == {"d": -9223372036854775807, "e": 31}


METADATA = ["", "{", "[]", "null", "3", "{}", '{"version": 1}', '{"version": 1, "root": 3}', '{"root": "/"}', DEEP]
METADATA += ['{"version": ' + DIGITS + ', "root": "/"}', '{"version": [1], "root": "/"}', "\\ud800"]


class TestManifests:
    @pytest.mark.parametrize("about", METADATA)
    def test_odd_metadata(self, tmp_path, about):
        table = videos_to_table([VideoRecord(id="a", path="a.mp4")])
        pq.write_table(table.replace_schema_metadata({"featcache.manifest": about}), tmp_path / "m.parquet")
        with pytest.raises(ManifestError, match=r"m\.parquet"):
            read_parquet(tmp_path / "m.parquet")

    def test_columns_of_other_types(self, tmp_path):
        table = videos_to_table([VideoRecord(id="a", path="a.mp4", labels={"label": "x"})])
        table = table.replace_schema_metadata({"featcache.manifest": '{"version": 1, "root": "/"}'})
        for number, name in enumerate(table.column_names):
            for other in (pa.array([[1]]), pa.array([b"\xff"], pa.binary()), pa.nulls(1), pa.array([True])):
                pq.write_table(table.set_column(number, name, other), tmp_path / "m.parquet")
                with pytest.raises(ManifestError, match=name):
                    read_parquet(tmp_path / "m.parquet")
            pq.write_table(table.append_column(name, table.column(name)), tmp_path / "m.parquet")
            with pytest.raises(ManifestError, match=f"{name}.*twice"):
                read_parquet(tmp_path / "m.parquet")
        column = table.column_names.index("num_frames")
        pq.write_table(table.set_column(column, "num_frames", pa.array([-1])), tmp_path / "m.parquet")
        with pytest.raises(ManifestError, match="'num_frames' that has numbers below 0"):
            read_parquet(tmp_path / "m.parquet")


class TestRuns:
    def test_a_checkpoint_names_no_file_of_others_for_removal(self, tmp_path):
        """The tensors of the former checkpoint are removed under the name that its document gives."""
        (tmp_path / "victim").write_text("precious")
        run = tmp_path / "run"
        checkpoint = Checkpoint(step=1, identity={"a": 1}, tensors={"module.a": torch.ones(1)}, facts={})
        write_checkpoint(run, checkpoint)
        whole = (run / "checkpoint.json").read_bytes()
        for name in ("../victim", str(tmp_path / "victim"), "log.jsonl", "checkpoint.json", 3, None):
            document = unsealed(run / "checkpoint.json") | {"tensors": name}
            (run / "checkpoint.json").write_bytes(seal(document))
            with pytest.raises(CorruptStoreError):
                write_checkpoint(run, checkpoint)
            with pytest.raises(CorruptStoreError):
                read_checkpoint(run)
            (run / "checkpoint.json").write_bytes(whole)
        assert (tmp_path / "victim").read_text() == "precious"

    @pytest.mark.parametrize("name", ["step", "identity", "facts", "tensors", "sha256"])
    def test_members_of_other_types(self, tmp_path, name):
        write_checkpoint(tmp_path, Checkpoint(step=1, identity={"a": 1}, tensors={"a": torch.ones(1)}, facts={}))
        for value in (None, [], -1, 10**30):
            (tmp_path / "checkpoint.json").write_bytes(seal(unsealed(tmp_path / "checkpoint.json") | {name: value}))
            with pytest.raises(FeatcacheError):
                read_checkpoint(tmp_path, identity=Identity(values={"a": 1}))

    def test_what_does_not_fit_is_one_sentence(self, tmp_path):
        for error in (KeyError("a"), TypeError("b"), RuntimeError("c\nd"), IndexError(3)):
            with pytest.raises(CorruptStoreError, match="does not hold what its run needs"), taking_up(tmp_path):
                raise error
        with pytest.raises(ConfigError), taking_up(tmp_path):
            raise ConfigError("mine")

    def test_logs_and_results(self, tmp_path):
        for line in ("{", "[]", DEEP, '{"step": "x"}', DIGITS):
            (tmp_path / "log.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step')
            with pytest.raises(CorruptStoreError):
                read_log(tmp_path)
            (tmp_path / "result.json").write_text(line)
            if line != '{"step": "x"}':
                with pytest.raises(ConfigError, match="is no result of a step"):
                    read_json(tmp_path / "result.json", what="result of a step")
        assert json.loads('{"step": 1}') == {"step": 1}
