"""The workers of a Dask scheduler: which of them are there, what they are, and which of them cannot compute."""

import asyncio
import logging
import os
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from importlib import metadata

from distributed import Client

from featcache.errors import FeatcacheError
from featcache.extract.cluster_worker import Seen, look
from featcache.extract.orders import PACKAGES, other_version

log = logging.getLogger(__name__)

MAX_BROKEN = 2
"""A worker is left out after this number of sessions that ended with an error; one may have met a bad shard."""


@dataclass(slots=True, kw_only=True)
class Workers:
    """The workers of a scheduler, and which of them cannot compute.

    Attributes:
        client: The client.
        where: How messages call the cluster.
        wait_seconds: How long there may be no worker.
        resources: What a worker must have to compute a shard, by Dask's resources.
        unfit: Why a worker is left out, by its address.
        broken: Names of the sessions that have ended with an error, by address of their worker.
    """

    client: Client
    where: str
    wait_seconds: float
    resources: dict[str, float] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)
    broken: dict[str, set[str]] = field(default_factory=dict)

    def present(self) -> set[str]:
        """Addresses of the workers that are there.

        Raises:
            FeatcacheError: The scheduler is gone.
        """
        if self.client.status != "running":
            raise self.scheduler_is_gone()
        try:
            return set(self.client.nthreads())
        except (OSError, asyncio.CancelledError) as error:
            raise self.scheduler_is_gone() from error

    def fit(self) -> list[str]:
        """Addresses of the workers that can compute, as far as is known.

        Raises:
            FeatcacheError: There are workers, and none of them can.
        """
        present = self.present()
        fit = sorted(present - set(self.unfit))
        if present and not fit:
            worker = sorted(present)[0]
            others = f", and so it is with all {len(present)} workers" if len(present) > 1 else ""
            raise FeatcacheError(f"worker {worker} of {self.where} cannot compute: {self.unfit[worker]}{others}")
        return fit

    def leave_out(self, worker: str, sentence: str) -> None:
        """Give no more work to a worker, and say so once."""
        if worker not in self.unfit:
            self.unfit[worker] = sentence
            if len(self.present() - set(self.unfit)):
                log.warning("worker %s is left out: %s", worker, sentence)

    def strike(self, worker: str, session: str, sentence: str) -> None:
        """Leave a worker out once :data:`MAX_BROKEN` of its sessions have ended with an error."""
        broken = self.broken.setdefault(worker, set())
        broken.add(session)
        if len(broken) >= MAX_BROKEN:
            self.leave_out(worker, sentence)

    def wait_for_one(self) -> None:
        """Wait for the first worker; a cluster that adapts itself starts one for this.

        Raises:
            FeatcacheError: There is none in time.
        """
        asked = self.client.submit(os.getpid, pure=False)
        try:
            asked.result(timeout=self.wait_seconds)
        except TimeoutError as error:
            raise self.nobody() from error
        except CancelledError as error:
            raise self.scheduler_is_gone() from error

    def nobody(self) -> FeatcacheError:
        """The error for a scheduler without workers."""
        return FeatcacheError(
            f"{self.where} has had no worker for {self.wait_seconds:g} seconds; start some with `dask worker`, or wait "
            "longer with --set cluster.wait_seconds=3600; what is committed stays, and the same command goes on"
        )

    def scheduler_is_gone(self) -> FeatcacheError:
        """The error for a scheduler that has ended."""
        return FeatcacheError(
            f"the scheduler {self.where} is gone; what is committed stays: start it again, and give the same command"
        )


def survey(workers: Workers, *, device: str) -> dict[str, Seen]:
    """What each worker is that can compute; the others are reported and left out.

    Args:
        workers: The workers, whose ``resources`` are set.
        device: The device that the settings name.

    Raises:
        FeatcacheError: There is none that can, or all have gone.
    """
    client = workers.client
    for package in PACKAGES:
        mine = metadata.version(package)
        # A function of the standard library: a worker with another featcache may not know those of this one.
        for worker, theirs in client.run(metadata.version, package, on_error="return").items():
            if theirs != mine:
                found = "none" if isinstance(theirs, Exception) else theirs
                workers.leave_out(worker, other_version(package, found, wanted=mine))
    seen: dict[str, Seen] = {}
    for worker, found in client.run(look, device, workers=workers.fit(), on_error="return").items():
        if isinstance(found, Seen):
            seen[worker] = found
        else:
            workers.leave_out(worker, str(found))
    if any(each.gpus for each in seen.values()) and device != "cpu":
        workers.resources = {"GPU": 1}
        seen = {worker: each for worker, each in seen.items() if each.gpus}
    if not seen:
        workers.fit()  # says why
        raise workers.nobody()  # all have gone meanwhile
    return seen
