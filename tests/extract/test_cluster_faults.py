"""Clusters of real processes under kills and interrupts, and the commands that the containers run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from distributed import Client, LocalCluster

from featcache.backbones import from_file
from featcache.backbones.from_file import use_file
from featcache.data.manifest import write_parquet
from featcache.data.scan import scan
from featcache.errors import FeatcacheError
from featcache.extract.progress import Progress
from featcache.extract.run import extract
from featcache.extract.settings import ClusterSettings, FeatureSettings
from featcache.testing.videos import write_video
from tests.extract.conftest import LITE0, Make
from tests.extract.test_cluster import arrays, await_port, dask, end, free_port, settled

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NUM_KILLS = 30


@contextmanager
def cluster_of(num_workers: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler and workers with nannies, which start a new process for one that dies."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    scheduler = dask("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    nannies = dask(
        "worker", address, "--nworkers", str(num_workers), "--nthreads", "1", "--memory-limit", "0", "--no-dashboard"
    )
    try:
        await_port(port)
        yield address, nannies
    finally:
        children = psutil.Process(nannies.pid).children(recursive=True)
        end(nannies)
        end(scheduler)
        for child in children:
            if child.is_running():
                child.kill()


def workers_of(nannies: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The worker processes: of the children of the nannies' process the one that waits for nobody."""
    children = psutil.Process(nannies.pid).children()
    return [child for child in children if "multiprocessing.spawn" in " ".join(child.cmdline())]


class Killer(threading.Thread):
    """Kills a worker some time after the first word of a run, unless the run is over by then."""

    def __init__(self, nannies: subprocess.Popen[bytes], *, after: float, victim: int) -> None:
        super().__init__()
        self.nannies, self.after, self.victim = nannies, after, victim
        self.began, self.is_over = threading.Event(), threading.Event()
        self.has_hit = False

    def run(self) -> None:
        self.began.wait()
        if not self.is_over.wait(self.after):
            victims = workers_of(self.nannies)
            victims[self.victim % len(victims)].kill()
            self.has_hit = True


@pytest.mark.timeout(1800)
def test_a_worker_killed_at_any_instant_changes_no_bit(make: Make, tmp_path: Path) -> None:
    """The instants are spread over the whole run, from the opening of sessions to the last commit."""
    draw = random.Random(0)
    local = tmp_path / "local"
    extract(make(out=str(local), shard_rows=2))
    hits, lasting = 0, [20.0]
    with cluster_of(2) as (address, nannies):
        for number in range(NUM_KILLS):
            settings = make(out=str(tmp_path / str(number)), shard_rows=2, cluster=ClusterSettings(scheduler=address))
            killer = Killer(nannies, after=draw.random() * min(lasting), victim=draw.randrange(2))
            killer.start()
            times: list[float] = []

            def tell(progress: Progress, *, killer: Killer = killer, times: list[float] = times) -> None:
                killer.began.set()
                times.append(time.monotonic())

            result = extract(settings, on_progress=tell)
            killer.is_over.set()
            killer.join()
            hits += killer.has_hit
            lasting.append(times[-1] - times[0])
            assert (result.videos_ok, result.videos_failed, result.videos_pending) == (16, 0, 0), number
            assert settled(settings.out) == arrays(local), number
            shutil.rmtree(settings.out)
            print(number, killer.has_hit, f"{killer.after:.2f} of {lasting[-1]:.2f} s")
    assert hits >= NUM_KILLS // 2


DEADLY = '''
"""An embedding that ends its process when it sees white, as one does that needs too much memory."""

import os
import signal

from torch import nn

from featcache.backbones import LayerOutput, WeightsCard
from featcache.backbones.weights import seeded_init
from featcache.backbones.wrapped import WrappedBackbone

CARD = WeightsCard(source="nobody trained it", license="Apache-2.0", file_name="none", input_size=64)


def build(name, weights):
    with seeded_init(name):
        network = nn.Conv2d(3, 4, kernel_size=16, stride=16)

    def run(pixels, wanted):
        if pixels.amin((1, 2, 3)).max() > 0.9:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"patches": LayerOutput(map=network(pixels).permute(0, 2, 3, 1), cls=None)}

    return WrappedBackbone(network, name=name, kind="image", card=CARD, layers=("patches",), run=run)
'''


def test_a_shard_that_kills_every_worker_is_one_sentence_and_costs_no_other(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(from_file, "_KNOWN", {})
    videos = tmp_path / "videos"
    videos.mkdir()
    white = [np.full((64, 96, 3), 255, np.uint8)] * 12
    for number in range(6):
        write_video(videos / f"{number}.mp4", **({"pictures": white, "num_frames": 12} if number == 2 else {}))
    write_parquet(scan(videos), videos / "videos.parquet")
    (tmp_path / "deadly.py").write_text(DEADLY)
    feature = FeatureSettings(name="patches", backbone=use_file(f"{tmp_path / 'deadly.py'}:build"), weights="random")
    with cluster_of(2) as (address, _):
        settings = make(
            source=str(videos / "videos.parquet"),
            features=(feature,),
            shard_rows=2,
            cluster=ClusterSettings(scheduler=address),
        )
        with pytest.raises(FeatcacheError, match="shard 2 of generation 0 could not be computed: no worker") as error:
            extract(settings)
    assert "\n" not in str(error.value)
    assert "(its videos: 2.mp4); all other shards are committed" in str(error.value)
    records = Path(settings.out, "g000", "commits", "patches").glob("0*.json")
    assert sorted(record.stem for record in records) == ["00000", "00001", "00003", "00004", "00005"]


def test_a_cluster_that_adapts_itself_starts_workers_for_a_run(make: Make, extracted: Path) -> None:
    """It has none at first; a question what a worker is like starts one, and the shards more."""
    with (
        LocalCluster(
            n_workers=0, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=":0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        cluster.adapt(minimum=0, maximum=2, interval="100ms", target_duration="100ms")
        assert not client.nthreads()
        result = extract(make(cluster=ClusterSettings(scheduler=cluster.scheduler_address)))
    assert (result.videos_ok, result.rows_written) == (16, 32)
    assert arrays(result.store) == arrays(extracted)


def command(*arguments: str, cwd: Path, env: Mapping[str, str] = {}) -> subprocess.Popen[str]:
    """Start a command as a terminal does, in a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def words(source: Path | str, out: str, *others: str) -> list[str]:
    """A small extraction as a command."""
    given = f"extract {source} -b {LITE0} -w random --name pooled --clips 2 --frames 2 --device cpu --out {out}".split()
    sets = [
        "features.0.input_size=64",
        "runtime.threads=1",
        "runtime.encode_batch=3",
        "shard_rows=2",
    ]
    return ["featcache.cli.main", *given, *others, *(word for each in sets for word in ("--set", each))]


def test_ctrl_c_of_a_local_cluster_is_one_line_and_leaves_no_process(scanned: Path, make: Make, tmp_path: Path) -> None:
    """A terminal sends the signal to the command and to its workers."""
    extract(make(out=str(tmp_path / "local"), shard_rows=2))
    first = command(*words(scanned, "store", "--workers", "2"), cwd=tmp_path)
    records = tmp_path / "store" / "g000" / "commits" / "pooled"
    while not list(records.glob("0*.json")):
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    children = psutil.Process(first.pid).children(recursive=True)
    os.killpg(first.pid, signal.SIGINT)
    out, err = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "interrupted; what was committed is safe, run the same command again to go on" in err
    assert "Traceback" not in out + err
    assert not [child for child in psutil.wait_procs(children, timeout=10)[1] if child.is_running()]
    second = command(*words(scanned, "store", "--workers", "2"), cwd=tmp_path)
    out, err = second.communicate(timeout=240)
    assert second.returncode == 0, err
    assert "16 ok, 0 failed" in out
    assert settled(tmp_path / "store") == arrays(tmp_path / "local")


def test_the_same_command_twice_at_once_shares_the_shards(scanned: Path, make: Make, tmp_path: Path) -> None:
    """As several hosts over one disk, or the tasks of a SLURM array."""
    extract(make(out=str(tmp_path / "local"), shard_rows=2))
    both = [command(*words(scanned, "store", "--json", "--quiet"), cwd=tmp_path) for _ in range(2)]
    said = [yaml.safe_load(process.communicate(timeout=240)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(each["rows_written"] for each in said) == 32
    assert any(each["videos_ok"] == 16 and not each["shards_elsewhere"] for each in said)
    assert arrays(tmp_path / "store") == arrays(tmp_path / "local")


def test_the_commands_of_the_containers(listing: Path, make: Make, tmp_path: Path) -> None:
    """The services of compose.yaml as processes here, with another port."""
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    port = str(free_port())
    shutil.copytree(listing.parent, tmp_path / "videos")

    def start(service: str, *others: str) -> subprocess.Popen[str]:
        about = services[service]
        program, *arguments = [*about.get("entrypoint", ["featcache"]), *about["command"]]
        here = [each.replace("scheduler:8786", f"127.0.0.1:{port}").replace("8786", port) for each in arguments]
        module = {"dask": "dask", "featcache": "featcache.cli.main"}[program]
        return command(module, *here, *others, cwd=tmp_path)

    assert services["worker"]["deploy"]["replicas"] == 2
    cluster = [start("scheduler"), start("worker"), start("worker")]
    try:
        await_port(int(port))
        extraction = start("extract", "--set", "runtime.threads=1", "--set", "features.0.input_size=64")
        out, err = extraction.communicate(timeout=240)
    finally:
        for process in cluster:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert extraction.returncode == 0, err
    assert "16 ok, 0 failed" in out
