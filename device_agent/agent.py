"""The agent: dial in, take leases, report; reconnect for as long as it takes."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import random
import signal
import threading
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import grpc

from device_agent import containment
from device_agent.artifacts import ArtifactCache
from device_agent.devices.base import Runner
from device_agent.devices.cpu import describe_cpu
from device_agent.devices.replay import ReplayRunner, describe_replay
from device_agent.lease_worker import LeaseWorker
from device_agent.outbox import Outbox
from device_agent.own_builds import OwnBuilds, compiler_versions
from device_agent.sayable import sayable
from device_agent.tally import Tally
from device_agent.telemetry import read_telemetry
from protos import convert, errors, farm_pb2, rpc
from protos.enrolment import renew_if_due
from protos.farm_pb2_grpc import AgentGatewayStub
from protos.records import (
    PROTOCOL_VERSION,
    Acknowledgement,
    Artifact,
    Built,
    CancelLease,
    Device,
    Goodbye,
    Heartbeat,
    Lease,
    LeaseFinished,
    Measurement,
    ModelMeasurement,
    Registered,
    Registration,
    RestartAgent,
)

log = logging.getLogger(__name__)

FETCH_TIMEOUT_S = 120.0
RENEWAL_CHECK_S = 3600.0
FIRST_DELAY_S = 0.25
LONGEST_DELAY_S = 10.0
JITTER = 0.5
GOODBYE_S = 1.0
"""How long a coordinator may take to end the session of an agent that was told to stop."""

EXIT_RESTART = 75
"""The exit code (EX_TEMPFAIL of sysexits.h) of an agent that is to be started again."""


def reconnect_delay_s(attempt: int, chance: float) -> float:
    """Seconds to wait before trying again; ``attempt`` counts from 0, ``chance`` is in [0, 1).

    The jitter keeps a shelf of agents from dialling a restarted coordinator all at once.
    """
    delay_s = min(FIRST_DELAY_S * 2.0 ** min(attempt, 16), LONGEST_DELAY_S)
    return delay_s * (1.0 - JITTER * chance)


class _Session:
    """One stream to the coordinator: what is to be sent waits in its queue."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub = AgentGatewayStub(channel)  # type: ignore[no-untyped-call]
        self.registered = False
        self.ended = threading.Event()
        self._outgoing: queue.SimpleQueue[farm_pb2.AgentMessage | None] = queue.SimpleQueue()

    def put(self, record: object) -> None:
        """Queue a record for sending."""
        self._outgoing.put(convert.to_agent_message(record))

    def messages(self) -> Iterator[farm_pb2.AgentMessage]:
        """The request stream, for gRPC's thread."""
        while (message := self._outgoing.get()) is not None:
            yield message

    def beat(self, heartbeat_s: float, cpus: tuple[int, ...]) -> None:
        """Say that we live until the session ends; for a thread of its own."""
        while not self.ended.wait(heartbeat_s):
            self.put(Heartbeat(read_telemetry(cpus)))

    def end(self) -> None:
        """Close the request stream and stop the heartbeat."""
        self.ended.set()
        self._outgoing.put(None)


class Agent:
    """One device's presence in a farm. ``run`` blocks until it is stopped or refused."""

    def __init__(
        self,
        address: str,
        device: Device,
        kernels: Runner | None = None,
        credentials: Path | None = None,
        outbox: Outbox | None = None,
        restartable: bool = False,
        build_processes: int = 0,
    ) -> None:
        """``kernels`` runs the candidates (default: the device's CPUs do); ``credentials`` is the
        file of those for mutual TLS; ``outbox`` keeps results (default: in memory);
        ``restartable`` if something starts this process again when it exits;
        ``build_processes`` compile what it measures, if the device says what they build with.
        Raises BadRequest if the credentials don't fit ``address``."""
        rpc.channel(address, credentials).close()
        self._instance = uuid.uuid4().hex[:16]
        self._restartable = restartable
        self.told_to_restart = False
        self._address = address
        self._credentials = credentials
        self._device = device
        self.tally = Tally()
        self._outbox = outbox if outbox is not None else Outbox()
        self._lock = threading.Lock()  # orders what is sent anew against what is new
        self._session: _Session | None = None
        artifacts = ArtifactCache(self._fetch)
        self.worker = LeaseWorker(device, artifacts, self._report, kernels)
        self._builds = OwnBuilds(device, artifacts, self._report, build_processes)

    @property
    def device(self) -> Device:
        """What it says of itself."""
        return self._device

    @property
    def connected(self) -> bool:
        """Whether the coordinator has this device registered now."""
        with self._lock:
            return self._session is not None

    @property
    def unacknowledged(self) -> int:
        """How many results are kept to be sent again."""
        return len(self._outbox)

    def run(self, stop: threading.Event) -> None:
        """Serve the coordinator until ``stop`` is set, then kill what runs and return.

        Raises BadRequest, Conflict or Forbidden if the coordinator refuses the registration. A
        coordinator that does not answer is called again, with growing pauses.
        """
        self.worker.start()
        self._builds.start()
        if self._credentials is not None:
            threading.Thread(
                target=self._renew, args=(self._credentials, stop), name="renew", daemon=True
            ).start()
        attempt = 0
        been_registered = False
        try:
            while not stop.is_set():
                registered = self._attend(stop, been_registered)
                been_registered = been_registered or registered
                attempt = 0 if registered else attempt + 1
                stop.wait(reconnect_delay_s(attempt, random.random()))
        finally:
            self._builds.close()
            self.worker.close()

    def _renew(self, credentials: Path, stop: threading.Event) -> None:
        """Renew the certificate whenever it is time; for a thread of its own."""
        while not stop.is_set():
            try:
                renew_if_due(self._address, credentials)
            except errors.FarmError as error:
                log.error("the certificate in %s can't be renewed: %s", credentials, error)
            stop.wait(RENEWAL_CHECK_S)

    def _attend(self, stop: threading.Event, been_registered: bool) -> bool:
        """Hold one session; whether it got as far as being registered."""
        with rpc.channel(self._address, self._credentials) as channel:
            session = _Session(channel)
            try:
                with rpc.client_errors("the session with the coordinator", self._address):
                    self._converse(session, stop)
                if not stop.is_set():
                    log.info("device %s: the coordinator ended the session", self._device.name)
            except errors.ProtocolViolation as error:  # the coordinator's; a refusal is BadRequest
                log.warning("device %s: the coordinator said: %s", self._device.name, error)
            except (errors.BadRequest, errors.Conflict, errors.Forbidden) as error:
                # A coordinator that still holds our previous session will let go of it.
                passing = been_registered and isinstance(error, errors.Conflict)
                if not session.registered and not passing:
                    raise
                log.warning("device %s: the session ended: %s", self._device.name, error)
            except errors.FarmError as error:
                if not stop.is_set():
                    log.warning("device %s: %s", self._device.name, error)
            finally:
                with self._lock:
                    self._session = None
                session.end()
                self.worker.drop_all()
                self._builds.drop_all()
            return session.registered

    def _converse(self, session: _Session, stop: threading.Event) -> None:
        session.put(Registration(PROTOCOL_VERSION, self._device, self._instance, self._restartable))
        call = session.stub.Session(session.messages())
        over = threading.Event()

        def cancel_when_stopped() -> None:
            while not stop.wait(0.2):
                if session.ended.is_set():
                    return
            session.put(Goodbye())
            session.end()
            over.wait(GOODBYE_S)
            call.cancel()

        threading.Thread(target=cancel_when_stopped, name="stop", daemon=True).start()
        try:
            for message in call:
                self._receive(session, stop, convert.from_gateway_message(message))
        finally:
            over.set()
            call.cancel()

    def _receive(self, session: _Session, stop: threading.Event, record: object) -> None:
        if isinstance(record, Registered) == session.registered:
            raise errors.ProtocolViolation(f"{type(record).__name__} at the wrong time")
        if isinstance(record, Registered) and not record.heartbeat_s:
            raise errors.ProtocolViolation("heartbeats without a pause between them")
        if isinstance(record, Registered):
            self._begin(session, record)
        elif isinstance(record, Lease) and record.build is not None:
            if not self._device.builds_with:
                raise errors.ProtocolViolation("a lease of builds, which this agent does not do")
            self._builds.submit(record)
        elif isinstance(record, Lease):
            self.worker.submit(record)
        elif isinstance(record, Acknowledgement):
            # What this says is in the log: `python -m benchmarks.chaos` reads it again.
            log.debug("acknowledged: lease %s candidate %s", record.lease_id, record.candidate_key)
            self._outbox.acknowledge(record)
        elif isinstance(record, CancelLease):
            self.worker.cancel(record.lease_id)
            self._builds.cancel(record.lease_id)
            self._outbox.drop(record.lease_id)
        elif isinstance(record, RestartAgent):
            log.warning("device %s: told to restart: %s", self._device.name, record.reason)
            self.told_to_restart = self._restartable
            if self._restartable:
                stop.set()

    def _begin(self, session: _Session, registered: Registered) -> None:
        log.info("device %s: session %s", self._device.name, registered.session_id)
        self.tally.session()
        with self._lock:
            session.registered = True
            for result in self._outbox.pending():
                session.put(result)
            self._session = session
        threading.Thread(
            target=session.beat,
            args=(registered.heartbeat_s, self._device.cpus),
            name="heartbeat",
            daemon=True,
        ).start()

    def _report(self, record: Measurement | ModelMeasurement | Built | LeaseFinished) -> None:
        self.tally.reported(record)
        with self._lock:
            if isinstance(record, Measurement | ModelMeasurement):
                record = sayable(record)
                self._outbox.add(record)
            if self._session is not None:
                self._session.put(record)

    def _fetch(self, artifact: Artifact) -> bytes:
        """Ask the coordinator for bytes that it did not send; raises Unavailable or NotFound."""
        with self._lock:
            session = self._session
        if session is None:
            raise errors.Unavailable("the session ended before the artifact was fetched")
        request = farm_pb2.FetchArtifactRequest(sha256=artifact.sha256)
        data = bytearray()
        with rpc.client_errors(f"fetching artifact {artifact.sha256[:12]}", self._address):
            for chunk in session.stub.FetchArtifact(request, timeout=FETCH_TIMEOUT_S):
                data += chunk.data
                if len(data) > artifact.size_bytes:
                    break  # the check that follows names it
        return bytes(data)


def run_agent(
    coordinator: str,
    name: str,
    target_json: str | None,
    cpus: Sequence[int] | None,
    emulated: bool,
    die_with_parent: bool,
    replay_s: float | None = None,
    labels: Mapping[str, str] | None = None,
    credentials: Path | None = None,
    state: Path | None = None,
    supervised: bool = False,
    metrics: str | None = None,
    build_processes: int = 0,
) -> int:
    """Be an agent until SIGTERM or SIGINT; for a process's main thread. Returns its exit code:
    EXIT_RESTART if it is to be started again.

    ``die_with_parent``: be told to end when the thread that started this process ends.
    ``replay_s``: run nothing, and take this long for each measurement. ``labels`` are the device's.
    ``credentials`` is the file of those for mutual TLS; loopback needs none. Results that were not
    acknowledged are kept in the folder ``state`` (None: in memory). ``supervised``: something
    starts this process again when it exits. ``metrics`` is where Prometheus is answered.
    ``build_processes`` compile what the device measures.
    Raises BadRequest (BadTarget) or Unavailable for a device that can't be described, and what
    ``Agent.run`` raises.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    if die_with_parent:
        containment.die_with_parent(os.getppid(), signal.SIGTERM)
    runner: Runner | None = None
    if replay_s is None:
        device = describe_cpu(name, target_json, cpus, emulated)
        device = replace(device, not_enforced=containment.not_enforced())
        if device.not_enforced:
            log.warning(
                "device %s: kernels are not kept from %s; the system does not allow that",
                *(name, ", ".join(device.not_enforced)),
            )
    else:
        device, runner = describe_replay(name, target_json, replay_s), ReplayRunner(replay_s)
    if build_processes:
        device = replace(device, builds_with=compiler_versions())
    outbox = Outbox(None if state is None else outbox_file(state, name))
    try:
        device = replace(device, labels=labels or {})
        agent = Agent(
            *(coordinator, device, runner, credentials, outbox, supervised, build_processes)
        )
        with contextlib.ExitStack() as stack:
            if metrics is not None:
                # Most agents need no library of Prometheus' in memory.
                from device_agent.metrics import serving

                stack.enter_context(serving(agent, metrics, credentials))
            agent.run(stop)
    finally:
        outbox.close()
    return EXIT_RESTART if agent.told_to_restart else 0


def outbox_file(state: Path, name: str) -> Path:
    """Where a device of this name keeps its results; no name leaves the folder."""
    return state / f"{urllib.parse.quote(name, safe='')}.outbox"
