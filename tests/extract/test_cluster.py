"""Extraction by workers of a Dask cluster: the store is the local engine's to the bit, whatever happens to a worker.

A scheduler in a process of its own, a worker in this process, and one in another process serve all tests of this file.
"""

import asyncio
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from distributed import Client, Worker
from distributed.utils import LoopRunner

import featcache
from featcache.config import parse
from featcache.data.manifest import Manifest, read_parquet, write_parquet
from featcache.errors import ConfigError, FeatcacheError
from featcache.extract import checking, cluster, cluster_worker
from featcache.extract.progress import Progress
from featcache.extract.run import extract
from featcache.extract.settings import ClusterSettings, ExtractSettings
from featcache.files.publish import is_temp
from featcache.store.writer import StoreWriter
from tests.extract.conftest import Make
from tests.extract.test_run import files


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A scheduler process and its workers.

    Attributes:
        scheduler: The process.
        address: Its address.
        client: A client of the test's own.
        far: A worker in another process.
    """

    scheduler: subprocess.Popen[str]
    address: str
    client: Client
    far: subprocess.Popen[bytes]

    @property
    def far_address(self) -> str:
        """Address of the worker in the other process."""
        pids = self.client.run(os.getpid)
        return next(address for address, pid in pids.items() if pid == self.far.pid)


def dask(*arguments: str, env: dict[str, str] | None = None, **options: object) -> subprocess.Popen[bytes]:
    """Start a Dask command."""
    return subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]],
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **options,
    )


def await_port(port: int) -> None:
    """Wait until somebody listens, which takes Dask a second, or many on a busy machine."""
    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, f"nobody listens at port {port}"
            time.sleep(0.05)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def scheduler() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = free_port()
    process = dask("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    await_port(port)
    yield process, f"tcp://127.0.0.1:{port}"
    end(process)


@pytest.fixture(scope="module")
def workers(scheduler: tuple[subprocess.Popen[bytes], str]) -> Iterator[Cluster]:
    process, address = scheduler
    far = dask("worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
    runner = LoopRunner()
    runner.start()

    async def start() -> Worker:
        return await Worker(address, nthreads=1, dashboard=False)

    near = runner.run_sync(start)
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(2)
        yield Cluster(scheduler=process, address=address, client=client, far=far)
    end(far)
    if cluster_worker._session is not None:  # left by the run whose scheduler has died
        cluster_worker._close(cluster_worker._session.run)  # else its task would open another one

    async def stop() -> None:
        await asyncio.wait_for(near.close(nanny=False), 10)

    runner.run_sync(stop)
    runner.stop()


def on(address: str, **changes: object) -> ClusterSettings:
    return ClusterSettings(scheduler=address, **changes)


def arrays(store: Path | str) -> dict[str, bytes]:
    """Every file of a store but the settings, which name its folder."""
    return {name: data for name, data in files(Path(store)).items() if not name.startswith("config/")}


def settled(store: Path | str) -> dict[str, bytes]:
    """The files of a store without the temporary ones that a killed process leaves for `featcache gc`."""
    return {name: data for name, data in arrays(store).items() if not is_temp(Path(name).name)}


def test_settings_are_one_or_the_other() -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        parse(ClusterSettings, {"scheduler": "tcp://head:8786", "workers": 2})


def test_processes_of_this_machine_have_one_heap_each(make: Make) -> None:
    with (
        cluster._local_cluster(make(cluster=ClusterSettings(workers=1))) as started,
        Client(started, set_as_default=False) as client,
    ):
        client.wait_for_workers(1)
        names = ("MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_")
        assert [list(client.run(os.environ.get, name).values()) for name in names] == [["1"], [None]]


def test_without_dask_the_first_word_is_what_to_install(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'featcache\[dask\]'"):
        extract(make(cluster=ClusterSettings(workers=2)))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://head", "tcp://127.0.0.1:{port}"])
def test_an_unreachable_scheduler_is_one_sentence(make: Make, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    with socket.socket() as other:  # a server of something else, which says nothing
        other.bind(("127.0.0.1", 0))
        other.listen()
        where = address.format(port=other.getsockname()[1])
        with pytest.raises(FeatcacheError, match=re.escape(f"no Dask scheduler answers at {where}")) as error:
            extract(make(cluster=on(where)))
    assert "\n" not in str(error.value)


def test_a_scheduler_without_workers_is_one_sentence(make: Make, scheduler: tuple[object, str]) -> None:
    settings = make(cluster=on(scheduler[1], wait_seconds=0.5))
    with pytest.raises(FeatcacheError, match=r"has had no worker for 0\.5 seconds; start some with `dask worker`"):
        extract(settings)
    assert not Path(settings.out).exists()


def test_two_workers_make_the_store_of_the_local_engine(make: Make, workers: Cluster, tmp_path: Path) -> None:
    """With a video that is gone since its scan, which is a failure everywhere."""
    videos = tmp_path / "videos"
    source = settings_source(make)
    shutil.copytree(source.parent, videos)
    manifest = read_parquet(source)
    write_parquet(Manifest(root=str(videos), videos=manifest.videos), videos / "videos.parquet")
    (videos / manifest.videos[5].path).unlink()
    told: list[tuple[int, int]] = []

    def watch(progress: Progress) -> None:
        assert progress.rows_done + progress.rows_failed <= progress.num_rows == 32
        told.append((progress.rows_done, progress.shards_done))

    local = make(source=str(videos / "videos.parquet"), out=str(tmp_path / "local"))
    shared = make(source=local.source, out=str(tmp_path / "shared"), cluster=on(workers.address))
    ours, theirs = extract(local), extract(shared, on_progress=watch)
    assert arrays(shared.out) == arrays(local.out)
    assert told[-1] == (30, 4)
    assert told == sorted(told)
    assert (theirs.rows_written, theirs.bytes_written) == (ours.rows_written, ours.bytes_written)
    assert [failure[:2] for failure in theirs.failures] == [(manifest.videos[5].id, "missing")]
    assert theirs.encode_seconds > 0
    # How it was computed is not part of the settings that repeat it.
    (config,) = (Path(shared.out) / "config").iterdir()
    assert workers.address not in config.read_text()
    assert not list((Path(shared.out) / "locks").glob("*.mark"))


def settings_source(make: Make) -> Path:
    return Path(str(make().source))


def test_running_again_computes_nothing(make: Make, filled: ExtractSettings, workers: Cluster) -> None:
    before = arrays(filled.out)
    result = extract(make(cluster=on(workers.address)))
    assert (result.rows_written, result.videos_ok) == (0, 16)
    assert arrays(filled.out) == before


def test_ctrl_c_leaves_what_is_committed_and_stops_the_workers(make: Make, workers: Cluster, extracted: Path) -> None:
    """The next runs go on; a shard that another process has claimed is left to it."""
    settings = make(cluster=on(workers.address))

    def interrupt(progress: Progress) -> None:
        if progress.shards_done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(settings, on_progress=interrupt)
    while any(workers.client.run(has_session).values()):
        time.sleep(0.05)
    assert not workers.client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
    store = featcache.open(settings.out)
    with StoreWriter.open(settings.out, sampling=store.sampling) as writer:
        committed = writer.committed(store.generations[0], "pooled")
        assert committed
        left = min(set(range(4)) - committed)
        with writer.shard_lock(store.generations[0], left):
            result = extract(settings)
    assert (result.shards_elsewhere, result.rows_written) == (1, 8 * (3 - len(committed)))
    assert extract(make()).rows_written == 8
    assert arrays(settings.out) == arrays(extracted)


def has_session() -> bool:
    return cluster_worker._session is not None


def test_workers_that_cannot_compute_are_left_out(
    make: Make, workers: Cluster, extracted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One may write no file as large as a shard, another has another version; the third computes everything."""
    other = tmp_path / "other" / "featcache-0.0.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: featcache\nVersion: 0.0.9\n")
    old = dask("worker", workers.address, "--no-nanny", "--no-dashboard", env={"PYTHONPATH": str(other.parent)})
    limits = resource.prlimit(workers.far.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(workers.far.pid, resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        workers.client.wait_for_workers(3)
        result = extract(make(cluster=on(workers.address)))
    finally:
        resource.prlimit(workers.far.pid, resource.RLIMIT_FSIZE, limits)
        end(old)
    assert (result.videos_ok, result.rows_written) == (16, 32)
    assert arrays(result.store) == arrays(extracted)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("featcache.")]
    assert "is left out: it has featcache 0.0.9, and this run" in next(line for line in said if "left out" in line)
    failed = next(line for line in said if "failed at" in line)
    assert re.search(rf"failed at worker {workers.far_address}: cannot write .*File too large", failed)


def test_a_dead_worker_costs_nothing_but_time(
    make: Make, workers: Cluster, extracted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    far = workers.far_address

    def kill(progress: Progress) -> None:
        if progress.encode_seconds:
            workers.far.kill()

    result = extract(make(cluster=on(workers.address)), on_progress=kill)
    workers.far.wait()
    assert (result.videos_ok, result.videos_failed, result.shards_elsewhere) == (16, 0, 0)
    assert settled(result.store) == arrays(extracted)
    assert any(far in record.getMessage() and "has gone" in record.getMessage() for record in caplog.records)


@pytest.mark.slow  # how long the workers go on without a scheduler is theirs
def test_a_dead_scheduler_is_one_sentence_and_the_next_run_goes_on(
    make: Make, workers: Cluster, extracted: Path
) -> None:
    settings = make(cluster=on(workers.address))

    def kill(progress: Progress) -> None:
        if progress.shards_done:
            workers.scheduler.kill()

    with pytest.raises(FeatcacheError, match=r"the scheduler .* is gone; what is committed stays") as error:
        extract(settings, on_progress=kill)
    assert "\n" not in str(error.value)
    for _ in range(60):  # a worker may still hold the shard that it was computing
        if not extract(make()).videos_pending:
            break
        time.sleep(0.5)
    assert settled(settings.out) == arrays(extracted)
