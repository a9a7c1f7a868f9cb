"""The command line in copies of one process that has imported everything: a command starts at once, and is a process
of its own that may be killed and traced.

Importing torch and timm takes longer than the small extractions of these tests, and nothing worth killing happens then.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

from featcache.testing.faults import Outcome, decoding_workers


class Forks:
    """Starts commands one after the other; a context manager.

    Attributes:
        log: Folder for what commands print.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        assert self._server.stdout.readline() == "ready\n"

    def __enter__(self):
        return self

    def __exit__(self, *error: object) -> None:
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def start(self, arguments: Sequence[object], *, cwd: Path, traced: bool = False) -> "Command":
        """Begin ``featcache ARGUMENTS`` in the folder ``cwd``; ``traced``: it waits until a tracer has come."""
        printed = self.log / "stderr"
        request = {"argv": [*map(str, arguments)], "cwd": str(cwd), "stderr": str(printed), "traced": traced}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return Command(int(self._server.stdout.readline()), self._server.stdout, printed)

    def run(self, arguments: Sequence[object], *, cwd: Path) -> Outcome:
        """Begin a command and wait for its end."""
        return self.start(arguments, cwd=cwd).wait()

    def run_with_fault(
        self, arguments: Sequence[object], *, cwd: Path, syscall: str, when: int | str, fault: str
    ) -> Outcome:
        """As :func:`featcache.testing.faults.run_with_fault`, but only for the main thread: the one that publishes."""
        command = self.start(arguments, cwd=cwd, traced=True)
        inject = ["-e", f"trace={syscall}", "-e", f"inject={syscall}:{fault}:when={when}"]
        with subprocess.Popen(["strace", "-qq", "-o", os.devnull, *inject, "-p", str(command.process)]):
            return command.wait()


class Command:
    """A command that was started.

    Attributes:
        process: Its id.
    """

    def __init__(self, process: int, ends, printed: Path) -> None:
        self.process = process
        self._ends = ends
        self._printed = printed

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return Path(f"/proc/{self.process}/stat").exists()  # the server buries it at once

    def kill(self) -> Outcome:
        """End it by ``SIGKILL``."""
        if self.is_running():
            os.kill(self.process, signal.SIGKILL)
        return self.wait()

    def wait(self) -> Outcome:
        """How it ended; call it once."""
        return Outcome(int(self._ends.readline()), self._printed.read_text())


@contextmanager
def nothing_left_of(command: Command):
    """Check that the decoding workers of a command have gone soon after it."""
    yield
    deadline = time.monotonic() + 10
    while left := decoding_workers(command.process):
        assert time.monotonic() < deadline, f"workers {left} outlive their extraction"
        time.sleep(0.01)


def serve() -> None:
    """Read one request a line; answer with a process id at once, and with an exit status at its end."""
    import timm  # noqa: F401
    import torch  # noqa: F401

    import featcache.commands.registry
    import featcache.extract.run
    import featcache.extract.work  # noqa: F401
    from featcache.cli import main

    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if process := os.fork():
            print(process, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
            continue
        nothing = os.open(os.devnull, os.O_RDWR)
        printed = os.open(request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for target, descriptor in ((0, nothing), (1, nothing), (2, printed)):
            os.dup2(descriptor, target)
        os.chdir(request["cwd"])
        while request["traced"] and "TracerPid:\t0\n" in Path("/proc/self/status").read_text():
            time.sleep(0.002)
        sys.argv = ["featcache", *request["argv"]]
        main.main()
        sys.exit(0)


if __name__ == "__main__":
    serve()
