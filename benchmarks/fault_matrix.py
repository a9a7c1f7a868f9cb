"""The fault matrix of stores: kills, failing calls, flipped bits and rivals, on each kind of disk. Nothing may be bad.

Kinds of disks are imitated in this process and its forks: hard links and locks are refused as such disks refuse them.
Stores are written by the public writer, without a backbone, in memory where that is possible. After each fault every
file under its final name must be whole, and the same command run again must end with the bytes of a run in peace.

    kills    processes killed by SIGKILL at random instants, up to four in a row on one store
    calls    a process killed before each call of the commit path, one call after the other
    errors   each of these calls fails with each of six errors: once, or from then on for good
    writers  three processes on one store at the same time; in every second run one is killed, in every third one
             computes other bytes
    machine  histories of 50 steps of a state machine: files change, are renamed, extracted, lost, processes die
    power    the machine dies after some of the calls, and any of what was not synced is lost
    planted  faults planted in the commit path, each of which the tests must see
    flips    one flipped bit in any file

Finished cases in `--folder` are kept, and a killed run goes on; parts may run in processes of their own:

    python benchmarks/fault_matrix.py --folder matrix
    python benchmarks/fault_matrix.py --folder matrix --parts kills calls --scale 0.01
    python benchmarks/fault_matrix.py --folder matrix --finished        # prints what is there
"""

import errno
import fcntl
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from common import parser, report

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the parts that the tests have

from featcache.errors import FeatcacheError
from featcache.files import leases
from featcache.recipes import SamplingRecipe
from featcache.seeding import rng_for
from featcache.store.gc import gc
from featcache.store.paths import DISK, FileFormat
from featcache.store.verify import verify
from featcache.store.writer import StoreWriter
from featcache.testing import faults
from featcache.testing.faults import DISKS
from featcache.testing.stores import StorePlan, add_generation, commit, fill, make_record, write_store

ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EACCES", "ESTALE")
CALLS = ("mkdir", "open", "write", "writev", "fsync", "link", "rename", "replace", "unlink", "rmdir")
FORMATS: tuple[FileFormat, ...] = ("zarr", "hdf5")
KILLS_IN_A_ROW = 4

TWO = {"pooled": make_record((6,)), "map": make_record((2, 2, 3), "int8")}
STORES = {
    "large": (
        StorePlan(
            records=TWO, num_videos=7, rows_per_video=(3, 5), unusable={2: "undecodable"}, failing={4: "timeout"}
        ),
        StorePlan(records=TWO, num_videos=2, first_video=7),
    ),
    "small": (StorePlan(records=TWO, num_videos=3, rows_per_video=(3, 5), failing={2: "timeout"}),),
    "tiny": (StorePlan(records={"map": make_record((1, 2), "int8")}, num_videos=1, rows_per_video=(1,)),),
    "pair": (StorePlan(records={"pooled": make_record((3,)), "map": make_record((1, 2), "int8")}, num_videos=2),),
}


class BadError(AssertionError):
    """A store was torn, lost something, or cannot be healed."""


class Part(NamedTuple):
    """A part of the matrix.

    Attributes:
        count: How many cases of it there are on each kind of disk that it is for; ``None``: as many as there are calls.
        run: Carries out the cases of a chunk on a kind of disk; returns the number of faults.
        disks: Kinds of disks.
        chunk: Cases that are done, and kept, together.
    """

    run: Callable[[Path, str, range], int]
    count: Callable[[str], int]
    disks: tuple[str, ...] = tuple(DISKS)
    chunk: int = 25


# A store in peace, and after a fault


@cache
def in_peace(store: str, file_format: FileFormat) -> dict[str, bytes]:
    """What an undisturbed writer leaves on an ordinary disk."""
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        write_store(Path(folder) / "store", *STORES[store], file_format=file_format)
        return faults.snapshot(Path(folder) / "store")


def check_whole(path: Path) -> None:
    """Every file under its final name is whole."""
    if (path / "featcache.json").exists() and (problems := verify(path).problems):
        raise BadError(f"torn: {problems}")


def check_healed(path: Path, store: str, file_format: FileFormat, *, swept: bool = False) -> None:
    """The same command again ends with the bytes of a run in peace."""
    write_store(path, *STORES[store], file_format=file_format)
    if faults.snapshot(path) != in_peace(store, file_format):
        raise BadError("the next run has left other bytes")
    if swept:
        gc(path, alone=(path / DISK).exists())
        if list(path.rglob("*.tmp")) or faults.snapshot(path) != in_peace(store, file_format):
            raise BadError("gc has left or removed what it must not")
    report = verify(path)
    if report.problems or any(report.num_pending.values()):
        raise BadError(f"not healed: {report}")


def forked(work: Callable[[], object]) -> int:
    """Begin work in a process of its own; returns its id. It ends with 0, or 3 after an error of one sentence."""
    if process := os.fork():
        return process
    code = 4
    try:
        work()
        code = 0
    except FeatcacheError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        code = 3
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(process: int) -> int:
    """How a process ended; negative: by which signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@contextmanager
def at_call(act: Callable[[int, str], None]) -> Iterator[list[int]]:
    """Count the calls of the commit path, and act before each; yields the count."""
    count = [0]

    def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            count[0] += 1
            act(count[0], name)
            return real(*args, **options)

        return call

    with ExitStack() as stack:
        for name in CALLS:
            stack.enter_context(mock.patch.object(os, name, wrapped(name, getattr(os, name))))
        stack.enter_context(mock.patch.object(fcntl, "flock", wrapped("flock", fcntl.flock)))
        yield count


@cache
def num_calls(disk: str, store: str, file_format: FileFormat) -> int:
    """Calls of the commit path of a run in peace."""
    with tempfile.TemporaryDirectory(dir=memory()) as folder, DISKS[disk].imitated():
        with at_call(lambda number, name: None) as count:
            write_store(Path(folder) / "store", *STORES[store], file_format=file_format)
        return count[0]


# The parts


def kills(folder: Path, disk: str, cases: range) -> int:
    """Each case is a kill; of up to four in a row on one store."""
    for chain in range(cases.start, cases.stop, KILLS_IN_A_ROW):
        file_format, path = FORMATS[chain // KILLS_IN_A_ROW % 2], folder / f"kill{chain}"
        rng = rng_for(0, "kill", disk, chain)
        done, seconds = 0, 0.1
        for _ in range(200):  # a run that has come to its end begins anew
            began = time.monotonic()
            process = forked(partial(write_store, path, *STORES["small"], file_format=file_format))
            time.sleep(float(rng.random()) * seconds)
            os.kill(process, signal.SIGKILL)
            code = ended(process)
            if code != -signal.SIGKILL:
                if code:
                    raise BadError(f"a run in peace ended with {code}")
                seconds = time.monotonic() - began
                shutil.rmtree(path)
                continue
            check_whole(path)
            done += 1
            if done == min(KILLS_IN_A_ROW, cases.stop - chain):
                break
        check_healed(path, "small", file_format, swept=True)
        shutil.rmtree(path)
        if done < min(KILLS_IN_A_ROW, cases.stop - chain):
            raise BadError("too few kills")
    return len(cases)


def calls(folder: Path, disk: str, cases: range) -> int:
    """Case n is a kill before call n; the formats one after the other."""
    for case in cases:
        first = num_calls(disk, "small", "zarr")
        file_format, number = ("zarr", case + 1) if case < first else ("hdf5", case - first + 1)
        path = folder / f"call{case}"

        def die(count: int, name: str, *, at: int = number) -> None:
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)

        def work(path: Path = path, file_format: FileFormat = file_format, die: Any = die) -> None:
            with at_call(die):
                write_store(path, *STORES["small"], file_format=file_format)

        if ended(forked(work)) != -signal.SIGKILL:
            raise BadError(f"not killed at call {number}")
        check_whole(path)
        check_healed(path, "small", file_format, swept=case % 5 == 0)
        shutil.rmtree(path)
    return len(cases)


def count_calls(disk: str) -> int:
    """Calls to be killed at."""
    return sum(num_calls(disk, "small", file_format) for file_format in FORMATS)


def errors(folder: Path, disk: str, cases: range) -> int:
    """Case n is an error at a call: each error once, then each from then on. The shorter format has cases left over."""
    num_met = 0
    for case in cases:
        kind, number = divmod(case, num_calls(disk, "tiny", "zarr"))
        code = getattr(errno, ERRORS[kind // 2])
        file_format, lasts, path = FORMATS[number % 2], bool(kind % 2), folder / f"error{case}"

        def fail(count: int, name: str, *, at: int = number + 1, code: int = code, lasts: bool = lasts) -> None:
            if count == at or (lasts and count > at):
                raise OSError(code, os.strerror(code))

        num_met += number < num_calls(disk, "tiny", file_format)
        with at_call(fail):
            try:
                write_store(path, *STORES["tiny"], file_format=file_format)
            except FeatcacheError as error:
                if "\n" in str(error):
                    raise BadError("more than a sentence") from error
            except OSError as error:
                raise BadError(f"not told: {error!r}") from error
        check_whole(path)
        check_healed(path, "tiny", file_format, swept=case % 5 == 0)
        shutil.rmtree(path)
    return num_met


def count_errors(disk: str) -> int:
    """Errors to be met."""
    return 2 * len(ERRORS) * num_calls(disk, "tiny", "zarr")


def writers(folder: Path, disk: str, cases: range) -> int:
    """Each case is a run of three writers."""
    for case in cases:
        file_format, path = FORMATS[case // 6 % 2], folder / f"writers{case}"
        rng = rng_for(0, "writers", disk, case)
        with ExitStack() as stack:
            if DISKS[disk].lock_error:  # leases keep planners apart, and nobody who commits
                stack.enter_context(mock.patch.object(leases, "DEAD_AFTER_SECONDS", 20.0))
                stack.enter_context(mock.patch.object(leases, "_is_dead", _of_a_shard(leases._is_dead)))
            begun = [
                forked(partial(_write, path, file_format, doubled=case % 3 == 2 and number == 2)) for number in range(3)
            ]
            if case % 2:
                time.sleep(0.3 * float(rng.random()))
                os.kill(begun[0], signal.SIGKILL)
            codes = [ended(process) for process in begun]
        if any(
            code not in ((0, -signal.SIGKILL) if case % 2 and not number else (0,)) for number, code in enumerate(codes)
        ):
            raise BadError(f"writers ended with {codes}")
        if case % 3 != 2:
            check_whole(path)
            check_healed(path, "large", file_format, swept=True)
        else:  # each shard is as one of them has computed it
            if not case % 2:
                check_whole(path)
            _write(path, file_format, doubled=False)
            gc(path, alone=(path / DISK).exists())
            report = verify(path)
            if report.problems or report.notes or any(report.num_pending.values()):
                raise BadError(f"files and records disagree: {report}")
        shutil.rmtree(path)
    return len(cases)


def _of_a_shard(real: Callable[[Path], bool]) -> Callable[[Path], bool]:
    return lambda path: path.exists() if ".publish" in path.name else real(path)


def _write(path: Path, file_format: FileFormat, *, doubled: bool) -> None:
    from tests.crash.histories import _Doubled

    with StoreWriter.open(path, sampling=SamplingRecipe(), file_format=file_format) as writer:
        for number, plan in enumerate(STORES["large"]):
            with writer.planning_lock():
                if number == len(writer.generations()):
                    add_generation(writer, plan)
            generation = writer.generations()[number]
            if not doubled:
                fill(writer, generation, plan)
                continue
            for shard in range(generation.num_shards):
                if set(writer.features()) == set(plan.records):
                    commit(_Doubled(writer), generation, shard, plan)  # type: ignore[arg-type]


def machine(folder: Path, disk: str, cases: range) -> int:
    """Each chunk is a run of hypothesis with that many examples."""
    from tests.extract.test_stale_model import check_model

    with mock.patch.object(tempfile, "tempdir", str(folder)):
        check_model(len(cases), steps=50, seed=cases.start)
    return len(cases)


def power(folder: Path, disk: str, cases: range) -> int:
    """A case is every so-manieth instant of a format; counts the states that were tried."""
    from tests.crash.crashing import Checker, check_prefixes, live
    from tests.crash.histories import short_stages

    tried = []
    for case in cases:
        states = folder / f"power{case}"
        states.mkdir()

        def check(stage: Any, recorded: Any, states: Path = states) -> None:
            work = states / stage.name
            work.mkdir()
            checker = Checker(work, stage.program, recorded, samples=1)
            check_prefixes(checker, recorded, every=41)
            tried.append(checker.num_states)

        live(short_stages(FORMATS[case]), states / "life", check)
        shutil.rmtree(states)
    return sum(tried)


def planted(folder: Path, disk: str, cases: range) -> int:
    """The tests of planted faults; each fails if its fault is not seen."""
    files = ("tests/crash/test_crash_model.py", "tests/files/test_claims.py", "tests/store/test_two_writers.py")
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-k", "planted", *files]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    passed = re.search(r"(\d+) passed", done.stdout)
    if done.returncode or passed is None:
        raise BadError(done.stdout[-2000:])
    return int(passed[1])


def flips(folder: Path, disk: str, cases: range) -> int:
    """Each case is a flipped bit."""
    for file_format in FORMATS:
        path = folder / file_format
        if not path.exists():
            write_store(path, *STORES["pair"], file_format=file_format)
    chunk = cases.start // 500
    path = folder / FORMATS[chunk % 2]
    files = faults.store_files(path) + ([path / DISK] if (path / DISK).exists() else [])
    for file, bit in faults.random_bits(files, count=len(cases), seed=chunk):
        with faults.flipped_bit(file, bit):
            try:
                seen = not verify(path).ok
            except FeatcacheError:
                seen = True
        if not seen:
            raise BadError(f"bit {bit} of {file} was flipped, and nobody has seen it")
    return len(cases)


PARTS = {
    "calls": Part(calls, count_calls),
    "kills": Part(kills, lambda disk: 750, chunk=20),
    "errors": Part(errors, count_errors, chunk=100),
    "writers": Part(writers, lambda disk: 125),
    "machine": Part(machine, lambda disk: 50, chunk=10),
    "planted": Part(planted, lambda disk: 1, disks=("ordinary",), chunk=1),
    "power": Part(power, lambda disk: 2, chunk=1),
    "flips": Part(flips, lambda disk: 25_000, disks=("ordinary", "neither"), chunk=500),
}


# Running, keeping, printing


def memory() -> str | None:
    """A folder in memory, where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def run(name: str, disk: str, *, folder: Path, scale: float) -> None:
    """Carry out the chunks of a part on a kind of disk that are not done."""
    part, log = PARTS[name], folder / f"{name}-{disk.replace(' ', '-')}.jsonl"
    done = {json.loads(line)["first"] for line in log.read_text().splitlines()} if log.exists() else set()
    for store in STORES:  # on this disk as it is
        for file_format in FORMATS:
            in_peace(store, file_format)
    count = part.count(disk)
    count = count if scale >= 1 else max(1, round(count * scale))
    with tempfile.TemporaryDirectory(dir=memory()) as work, DISKS[disk].imitated():
        for first in range(0, count, part.chunk):
            if first in done:
                continue
            cases = range(first, min(count, first + part.chunk))
            result: dict[str, Any] = {"first": first, "cases": len(cases), "faults": 0, "bad": ""}
            try:
                result["faults"] = part.run(Path(work), disk, cases)
            except Exception:
                result["bad"] = traceback.format_exc()
                print(f"BAD: {name} on a disk with {disk}, {cases}: {result['bad']}", file=sys.stderr, flush=True)
            with log.open("a") as file:
                file.write(json.dumps(result) + "\n")


def table(folder: Path) -> list[dict[str, Any]]:
    """A row per part: faults on each kind of disk, and chunks of them that were bad."""
    rows = []
    for name, part in PARTS.items():
        row: dict[str, Any] = {"part": name}
        bad = total = 0
        for disk in DISKS:
            log = folder / f"{name}-{disk.replace(' ', '-')}.jsonl"
            lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
            row[disk] = sum(line["faults"] for line in lines) if disk in part.disks else "-"
            total += sum(line["faults"] for line in lines)
            bad += sum(bool(line["bad"]) for line in lines)
        rows.append({**row, "in all": total, "bad": bad})
    return rows


def main() -> None:
    """Parse the options, run and print."""
    options = parser(__doc__)
    options.add_argument("--folder", type=Path, required=True, help="keeps what is finished")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument("--disks", nargs="+", choices=DISKS, default=list(DISKS))
    options.add_argument("--scale", type=float, default=1.0, help="share of the cases")
    options.add_argument("--finished", action="store_true", help="only print what is there")
    chosen = options.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("featcache").setLevel(logging.ERROR)
    for name in () if chosen.finished else chosen.parts:
        for disk in chosen.disks:
            if disk in PARTS[name].disks:
                run(name, disk, folder=chosen.folder, scale=chosen.scale)
    rows = table(chosen.folder)
    report("fault matrix", rows, as_json=chosen.json, notes=["faults by kind of disk: what it lacks"])
    sys.exit(any(row["bad"] for row in rows))


if __name__ == "__main__":
    main()
