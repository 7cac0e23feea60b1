"""The farm that is to survive: a coordinator, its database and six agents, and what can be done to
each of them."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.chaos import clock as clocks
from benchmarks.chaos.disk import Disk, disk
from benchmarks.chaos.links import CUT, GOOD, Link, Quality, links
from benchmarks.chaos.processes import DidNotStop, Supervised, ray_workers
from benchmarks.chaos.schedule import Fault, Kind
from benchmarks.postgres_server import Server
from coordinator.client import FarmClient
from coordinator.security.authority import Authority
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.identities import add_token
from protos.enrolment import SECRET_BYTES, Token, enrol
from protos.errors import FarmError
from protos.identity import Identity, Role

AGENTS, LINKED = 6, 4
"""So many agents, and so many of them in a network namespace of their own."""

PATIENCE_S = 120.0
ENROLLED_FOR_S = 600.0
REFUSED = 2
"""An agent's exit code after which its unit leaves it alone."""

TUNEFARM = (sys.executable, "-m", "coordinator.cli.main", "-vv")


class DidNotStart(Exception):
    """Something of the farm did not come up; the message says where its words are."""


@dataclass
class AgentMachine:
    """What an agent has for itself: a process, a disk, maybe a link and a clock."""

    process: Supervised
    disk: Disk
    link: Link | None
    clock: clocks.Clock | None


@dataclass(frozen=True)
class Surroundings:
    """What outlives one job's farm: folders, links, disks, the database, Ray, the moving clock.

    ``cpu`` is the coordinator's machine's, ``other_cpu`` that of the machines in namespaces.
    """

    folder: Path
    cpu: int
    other_cpu: int
    made_links: Sequence[Link]
    disks: Sequence[Disk]
    database: Server
    ray_address: str
    clock_library: Path | None


@contextlib.contextmanager
def machines(folder: Path, seed: int) -> Iterator[tuple[list[Link], list[Disk]]]:
    """The agents' links and disks; raises NoNamespaces or NoDisk."""
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(links(LINKED, f"ch{os.getpid() % 100_000}x", seed))
        disks = [stack.enter_context(disk(folder / f"disk{i}")) for i in range(AGENTS)]
        yield made, disks


@dataclass
class Farm:
    """A running farm on a database of its own."""

    coordinator: Supervised
    agents: list[AgentMachine]
    database: Server
    address: str
    ports: tuple[int, ...]
    log_url: str
    note: Callable[[str], None]
    not_stopped: list[str] = field(default_factory=list)

    def tend(self) -> None:
        """Start again what has ended by itself."""
        self.coordinator.tend()
        for agent in self.agents:
            agent.process.tend()

    def begin(self, fault: Fault) -> str:
        """Make a fault happen; what was hit, for people, or nothing if there was nothing to hit."""
        if fault.kind is Kind.COORDINATOR_KILLED:
            self.coordinator.kill()
            return "the coordinator"
        if fault.kind is Kind.DATABASE_RESTARTED:
            self.database.crash()
            return "PostgreSQL"
        if fault.kind is Kind.WORKER_KILLED:
            return _kill_worker(fault.amount)
        agent = self.agents[fault.agent]
        self._hit(agent, fault)
        return agent.process.name

    @staticmethod
    def _hit(agent: AgentMachine, fault: Fault) -> None:
        if fault.kind is Kind.AGENT_KILLED:
            agent.process.kill()
        elif fault.kind is Kind.AGENT_FROZEN:
            agent.process.freeze()
        elif fault.kind is Kind.DISK_FILLED:
            agent.disk.fill()
        elif fault.kind is Kind.CLOCK_MOVED:
            assert agent.clock is not None
            agent.clock.move(int(fault.amount))
        else:
            assert agent.link is not None
            agent.link.quality = {
                Kind.LINK_CUT: CUT,
                Kind.LINK_DELAYED: Quality(delay_s=fault.amount),
                Kind.LINK_LOSSY: Quality(loss=fault.amount),
            }[fault.kind]

    def end(self, fault: Fault) -> None:
        """Mend what a fault has broken."""
        if fault.kind is Kind.COORDINATOR_KILLED:
            self.coordinator.start()
        elif fault.kind is Kind.DATABASE_RESTARTED:
            self.database.start()
        elif fault.agent >= 0:
            self._heal(self.agents[fault.agent], fault.kind)

    @staticmethod
    def _heal(agent: AgentMachine, kind: Kind) -> None:
        if kind is Kind.AGENT_KILLED:
            agent.process.start()
        elif kind is Kind.AGENT_FROZEN:
            agent.process.thaw()
        elif kind is Kind.DISK_FILLED:
            agent.disk.empty()
        elif kind is Kind.CLOCK_MOVED and agent.clock is not None:
            agent.clock.move(0)
        elif agent.link is not None:
            agent.link.quality = GOOD

    def stop(self) -> None:
        """End all of it, as an administrator does."""
        for process in (*(agent.process for agent in self.agents), self.coordinator):
            try:
                process.stop()
            except DidNotStop as error:
                self.not_stopped.append(str(error))


def _kill_worker(share: float) -> str:
    workers = ray_workers()
    if not workers:
        return ""
    chosen = workers[min(int(share * len(workers)), len(workers) - 1)]
    with contextlib.suppress(psutil.NoSuchProcess):
        chosen.kill()
    return f"process {chosen.pid}, one of {len(workers)}"


@contextlib.contextmanager
def running(
    around: Surroundings,
    name: str,
    target_json: str,
    miscompiles: bool,
    note: Callable[[str], None],
) -> Iterator[Farm]:
    """A farm that is ready, all agents enrolled and started; stopped at the end.

    ``name`` is its database's and its folder's. With ``miscompiles``, its builders have the defect
    of ``miscompiler.py``. Raises DidNotStart.
    """
    folder = around.folder / name
    folder.mkdir()
    around.database.execute(f"CREATE DATABASE {name}")
    url = around.database.url(name)
    plain, secure, enrolment = ports = _free_ports(3)
    authority = Authority.create(folder / "ca.pem", "chaos")
    module = "benchmarks.chaos.coordinator" if miscompiles else "coordinator.cli.main"
    command = [
        *(sys.executable, "-m", module, *(() if miscompiles else ("-v", "serve"))),
        *("--listen", f"127.0.0.1:{plain}", "--listen-tls", f"0.0.0.0:{secure}"),
        *("--listen-enroll", f"127.0.0.1:{enrolment}", "--ca", str(folder / "ca.pem")),
        *("--log", url, "--ray-address", around.ray_address),
    ]
    coordinator = Supervised("coordinator", command, {}, folder / "coordinator.log", note)
    farm = Farm(coordinator, [], around.database, f"127.0.0.1:{plain}", ports, url, note)
    try:
        coordinator.start()
        _wait_for(farm, lambda client: client.jobs(1) is not None)
        for number in range(AGENTS):
            farm.agents.append(
                _agent(around, farm, folder, authority, number, target_json, (secure, enrolment))
            )
        _wait_for(farm, lambda client: len(client.devices()) == AGENTS)
        yield farm
    finally:
        farm.stop()


def _agent(
    around: Surroundings,
    farm: Farm,
    folder: Path,
    authority: Authority,
    number: int,
    target_json: str,
    ports: tuple[int, int],
) -> AgentMachine:
    """One agent, enrolled if it is on another machine, and started."""
    name = f"chaos-{number}"
    link = around.made_links[number] if number < LINKED else None
    its_disk = around.disks[number]
    cpu = around.cpu if link is None else around.other_cpu
    command = [
        *("taskset", "--cpu-list", str(cpu), *TUNEFARM, "agent", "--supervised"),
        *("--name", name, "--target", target_json, "--cpus", str(cpu)),
    ]
    home = its_disk.path / folder.name
    home.mkdir()
    if link is None:
        command += ["--coordinator", farm.address]
    else:
        credentials = home / "agent.pem"
        secret = secrets.token_bytes(SECRET_BYTES)
        with contextlib.closing(TuningLog.open(farm.log_url)) as log, log.writing() as connection:
            add_token(connection, secret, Identity(name, Role.AGENT), ENROLLED_FOR_S)
        enrol(f"127.0.0.1:{ports[1]}", Token(secret, authority.certificate_der), credentials)
        command += ["--coordinator", f"{link.host}:{ports[0]}", "--credentials", str(credentials)]
        command = link.command(command)
    environment = {"TMPDIR": str(home), "HOME": str(home)}
    environment |= {f"XDG_{what}_HOME": str(home) for what in ("DATA", "CONFIG", "STATE", "CACHE")}
    if link is not None:  # of other machines, which know nothing of the coordinator's
        environment |= lock_folder(around.folder, "others")
    clock = None
    if around.clock_library is not None:
        clock = clocks.Clock(around.clock_library, folder / f"{name}.clock")
        environment |= clock.environment
    process = Supervised(
        *(name, command, environment, folder / f"{name}.log", farm.note), stays_down=(REFUSED,)
    )
    process.start()
    return AgentMachine(process, its_disk, link, clock)


def _wait_for(farm: Farm, condition: Callable[[FarmClient], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(FarmError), FarmClient(farm.address) as client:
            if condition(client):
                return
        if time.monotonic() > deadline:
            raise DidNotStart(f"the farm is not up; see {farm.coordinator.said.parent}")
        farm.tend()
        time.sleep(0.2)


def _free_ports(count: int) -> tuple[int, ...]:
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return tuple(int(server.getsockname()[1]) for server in servers)


def open_ports(ports: Sequence[int]) -> list[str]:
    """Those of these ports on which somebody listens, for people."""
    listening = {
        connection.laddr.port
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    return [f"port {port}" for port in ports if port in listening]


def lock_folder(folder: Path, whose: str) -> Mapping[str, str]:
    """The environment in which processes share a host lock with each other only."""
    return {"TUNEFARM_LOCK_DIR": str(folder / f"locks-{whose}")}
