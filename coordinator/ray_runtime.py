"""Ray: started and stopped in one place, and the pool of actors that the farm's work runs on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from protos.errors import Unavailable

log = logging.getLogger(__name__)

W = TypeVar("W")

_LOCAL = {
    "RAY_USAGE_STATS_ENABLED": "0",  # the farm calls nobody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the only switch that keeps Ray's ports on loopback
}


_TOKEN = secrets.token_hex(32)
"""Of this process's clusters, known to their processes only. Ray reads it once in a process."""


def configure_local() -> None:
    """Set what Ray reads when it is imported, for a cluster of this process's own."""
    os.environ.update(_LOCAL)
    os.environ["RAY_AUTH_TOKEN"] = _TOKEN


@contextlib.contextmanager
def running(num_cpus: int, address: str | None = None) -> Iterator[None]:
    """Ray on this machine, on loopback only, or the cluster at ``address``, while the body runs.

    Enter it in the main thread before any gRPC channel exists: Ray starts its processes by forking,
    which a gRPC thread in mid-call can deadlock. Starting takes some seconds.
    """
    if address is None:
        configure_local()
    import ray

    quiet: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": False,
    }
    try:
        if address is not None:
            ray.init(address=address, **quiet)
        else:
            # More slots than CPUs: search, build and training actors are seldom all busy at once,
            # and the host lock, not Ray, keeps them from disturbing a measurement.
            ray.init(
                num_cpus=4 * num_cpus,
                include_dashboard=False,
                object_store_memory=512 << 20,
                _system_config={"enable_metrics_collection": False},
                **quiet,
            )
        yield
    except ConnectionError as error:
        raise Unavailable(f"no Ray cluster answers at {address}: {error}") from error
    finally:
        ray.shutdown()


HELPER_CPUS = 0.25
"""Of an actor that searches or trains for one job: several jobs run at a time, and no actor of
theirs may wait for another job's end."""


class ActorLost(Unavailable):
    """The actor's process died in mid-call."""


class Actor(Generic[W]):
    """One restartable Ray actor around an instance of a plain class.

    ``num_cpus`` is what Ray reserves for it; without that much it waits for others to end.
    """

    def __init__(self, make: Callable[[], W], name: str, num_cpus: float = 1.0) -> None:
        self._make = make
        self._name = name
        self._num_cpus = num_cpus
        self._handle: Any = None

    def start(self) -> None:
        """Start the actor's process (again)."""
        import ray

        worker = ray.remote(_Host)
        self._handle = worker.options(num_cpus=self._num_cpus, max_restarts=0).remote(self._make)

    async def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        """Call a method of the instance.

        Raises ActorLost if the process died, or TimeoutError after ``timeout_s``; in both cases a
        fresh actor is started. What the method itself raises is raised here.
        """
        import ray

        if self._handle is None:
            self.start()
        reference = self._handle.call.remote(method, *args)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(reference.future()), timeout_s)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except TimeoutError:
            log.warning("%s took more than %s s over %s: restarted", self._name, timeout_s, method)
            self.stop()
            raise
        except ray.exceptions.RayActorError as error:
            self._handle = None
            raise ActorLost(
                f"the process {self._name} died in {method}: {error}. What was measured is in the "
                "log; submit the job again to go on"
            ) from error

    def stop(self) -> None:
        """Kill the actor's process."""
        import ray

        if self._handle is not None:
            ray.kill(self._handle)
            self._handle = None


class _Host:
    """Runs in the actor's process."""

    def __init__(self, make: Callable[[], Any]) -> None:
        import signal

        # Ctrl-C in a terminal reaches the whole process group; the coordinator decides what ends.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._instance = make()

    def call(self, method: str, *args: Any) -> Any:
        return getattr(self._instance, method)(*args)
