"""A coordinator that listens with mutual TLS: who gets in, and what they may do there."""

from __future__ import annotations

import datetime
import http.client
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from coordinator.client import FarmClient
from coordinator.security.authority import CERTIFICATE_DAYS, Authority
from coordinator.security.guard import REFRESH_S
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.identities import revoke
from protos import convert, errors, farm_pb2, rpc
from protos.certificates import (
    Credentials,
    key_pem,
    load_credentials,
    new_key,
    requested_key,
    signing_request,
)
from protos.enrolment import Token, enrol, parse_token, renew_if_due
from protos.farm_pb2_grpc import AgentGatewayStub, CertificatesStub, EnrolmentStub, FarmStub
from protos.identity import Identity, Role
from protos.records import (
    PROTOCOL_VERSION,
    Device,
    DeviceState,
    JobSpec,
    JobState,
    Registration,
    sha256_hex,
)
from tests import scrape
from tests.models import small_model

TUNEFARM = (sys.executable, "-m", "coordinator.cli.main")
PATIENCE_S = 200.0
TARGET = '{"kind":"llvm","num-cores":1}'


def run(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TUNEFARM, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


@dataclass(frozen=True)
class SecureFarm:
    """A running coordinator; addresses are HOST:PORT."""

    folder: Path
    log: Path
    plain: str
    secure: str
    enrolment: str
    metrics: int

    def token(self, name: str, role: str, *more: str) -> str:
        """As an administrator makes one on the coordinator's machine."""
        made = run(
            *("ca", "token", name, "--role", role, "--ca", self.folder / "ca.pem"),
            *("--log", self.log, *more),
        )
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    def enrolled(self, name: str, role: str) -> Path:
        """The credentials of somebody new."""
        path = self.folder / f"{name}.pem"
        token = parse_token(self.token(name, role))
        who = enrol(self.enrolment, token, path)
        assert (who.name, who.role.value) == (name, role)
        return path

    def revoke(self, name: str) -> None:
        done = run("ca", "revoke", name, "--log", self.log)
        assert done.returncode == 0, done.stderr

    def printed(self) -> str:
        """What the coordinator has said so far."""
        return (self.folder / "serve.err").read_text()


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureFarm]:
    folder = tmp_path_factory.mktemp("farm")
    made = run("ca", "init", "--ca", folder / "ca.pem")
    assert made.returncode == 0, made.stderr
    with (folder / "serve.err").open("w") as said:
        process = subprocess.Popen(
            [
                *(*TUNEFARM, "-vv", "serve", "--listen", "127.0.0.1:0"),
                *("--listen-tls", "127.0.0.1:0", "--log", str(folder / "log.db")),
                *("--ca", str(folder / "ca.pem"), "--metrics", "0.0.0.0:0"),
            ],
            stderr=said,
        )
    try:
        pattern = (
            r"coordinator on 127.0.0.1:(\d+),.*\n.*TLS on port (\d+), enrolments on port (\d+)\n"
            r"metrics on port (\d+)"
        )
        deadline = time.monotonic() + PATIENCE_S
        while (found := re.search(pattern, (folder / "serve.err").read_text())) is None:
            assert process.poll() is None, (folder / "serve.err").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        plain, secure, enrolment = (f"127.0.0.1:{port}" for port in found.groups()[:3])
        yield SecureFarm(folder, folder / "log.db", plain, secure, enrolment, metrics=int(found[4]))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def state(farm: SecureFarm, device: str) -> DeviceState | None:
    with FarmClient(farm.plain) as client:
        found = [s.state for s in client.devices() if s.device.name == device]
    return found[0] if found else None


def spec(model: bytes) -> JobSpec:
    return JobSpec("small", sha256_hex(model), TARGET, trials=4, submitted_by="somebody else")


# ------------------------------------------------------------------------------------- agents


def test_a_device_enrols_serves_and_is_thrown_out(farm: SecureFarm, tmp_path: Path) -> None:
    token, credentials = farm.token("pi-1", "agent"), tmp_path / "agent.pem"
    enrol_it = ("agent", "enroll", "--coordinator", farm.enrolment, "--credentials", credentials)
    done = run(*enrol_it, stdin=token)
    assert done.returncode == 0, done.stderr
    assert "enrolled as pi-1, role agent" in done.stdout
    assert credentials.stat().st_mode & 0o777 == 0o600

    kept = credentials.read_bytes()
    again = run(*enrol_it, stdin=token)
    assert (again.returncode, "--replace" in again.stderr) == (2, True)
    again = run(*enrol_it, "--replace", stdin=token)
    assert (again.returncode, "this token is not good" in again.stderr) == (2, True)
    assert credentials.read_bytes() == kept
    assert list(tmp_path.iterdir()) == [credentials]

    serve = (
        *("agent", "--coordinator", farm.secure, "--credentials", str(credentials)),
        *("--replay", "10ms", "--target", TARGET, "--name"),
    )
    other = run(*serve, "pi-2")
    assert (other.returncode, "the certificate is pi-1's" in other.stderr) == (2, True)
    agent = subprocess.Popen([*TUNEFARM, *serve, "pi-1"], stderr=subprocess.PIPE, text=True)
    until(lambda: state(farm, "pi-1") is DeviceState.IDLE)
    farm.revoke("pi-1")
    until(lambda: state(farm, "pi-1") is DeviceState.GONE)
    _, said = agent.communicate(timeout=PATIENCE_S)
    assert agent.returncode == 2
    assert "has ended or was revoked" in said
    assert state(farm, "pi-1") is DeviceState.GONE


def test_an_agent_may_do_nothing_else(farm: SecureFarm) -> None:
    model = small_model()
    with FarmClient(farm.secure, farm.enrolled("pi-3", "agent")) as agent:
        for call in (
            agent.jobs,
            agent.devices,
            lambda: agent.submit(spec(model), model),
            lambda: agent.job("j-00000000"),
            lambda: agent.cancel("j-00000000"),
            lambda: agent.package("j-00000000"),
            lambda: agent.measurements("j-00000000"),
        ):
            with pytest.raises(errors.Forbidden, match="pi-3 is an agent"):
                call()
    with FarmClient(farm.plain) as local:
        assert all(job.spec.submitted_by != "pi-3" for job in local.jobs())


def test_a_user_is_no_agent(farm: SecureFarm) -> None:
    device = Device("root", TARGET, "a CPU", (0,), 1, False, {}, host="host")
    with rpc.channel(farm.secure, farm.enrolled("root", "admin")) as channel:
        stub = AgentGatewayStub(channel)  # type: ignore[no-untyped-call]
        message = convert.to_agent_message(Registration(PROTOCOL_VERSION, device))
        with (
            pytest.raises(errors.Forbidden, match="root is an admin"),
            rpc.client_errors("joining", farm.secure),
        ):
            next(stub.Session(iter([message]), timeout=PATIENCE_S))
        with (
            pytest.raises(errors.Forbidden, match="root is an admin"),
            rpc.client_errors("fetching", farm.secure),
        ):
            next(stub.FetchArtifact(farm_pb2.FetchArtifactRequest(sha256="0" * 64)))
    assert state(farm, "root") is None


# ------------------------------------------------------------------------------------- users


def test_users_do_what_their_role_may(farm: SecureFarm) -> None:
    model = small_model()
    with (
        FarmClient(farm.secure, farm.enrolled("vera", "viewer")) as viewer,
        FarmClient(farm.secure, farm.enrolled("alice", "submitter")) as alice,
        FarmClient(farm.secure, farm.enrolled("bob", "submitter")) as bob,
        FarmClient(farm.secure, farm.enrolled("ada", "admin")) as admin,
    ):
        with pytest.raises(errors.Forbidden, match="vera is a viewer; SubmitJob is for"):
            viewer.submit(spec(model), model)
        first, second = (alice.submit(spec(model), model) for _ in range(2))
        assert first.spec.submitted_by == "alice", "whatever she said"
        assert viewer.job(first.job_id).spec.submitted_by == "alice"
        for stranger, why in ((viewer, "vera is a viewer"), (bob, "the job is alice's")):
            with pytest.raises(errors.Forbidden, match=why):
                stranger.cancel(first.job_id)
        assert alice.cancel(first.job_id).state is JobState.CANCELLED
        assert admin.cancel(second.job_id).state is JobState.CANCELLED


def test_the_command_finds_the_credentials(
    farm: SecureFarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEFARM_CREDENTIALS", str(tmp_path / "user.pem"))
    token = tmp_path / "token"
    token.write_text(farm.token("carol", "viewer"))
    done = run("enroll", "--coordinator", farm.enrolment, "--token-file", token)
    assert done.returncode == 0, done.stderr
    listed = run(
        *("jobs", "list", "--coordinator", farm.secure, "--credentials", tmp_path / "user.pem")
    )
    assert listed.returncode == 0, listed.stderr
    known = run("ca", "list", "--log", farm.log)
    assert re.search(r"carol +viewer +good", known.stdout)


def test_a_revoked_user_is_out_within_seconds(farm: SecureFarm) -> None:
    path = farm.enrolled("dave", "viewer")
    with FarmClient(farm.secure, path) as dave:
        dave.jobs()
        farm.revoke("dave")

        def is_out() -> bool:
            try:
                dave.jobs()
            except errors.Forbidden as error:
                return "has ended or was revoked" in str(error)
            return False

        until(is_out)
    with pytest.raises(errors.Forbidden):
        renew_if_due(farm.secure, path, _in_days(CERTIFICATE_DAYS - 1))


def test_a_revoked_user_watches_nothing_any_more(farm: SecureFarm) -> None:
    model = small_model()
    with (
        FarmClient(farm.plain) as local,
        FarmClient(farm.secure, farm.enrolled("trent", "viewer")) as trent,
    ):
        job = local.submit(spec(model), model)
        watched = trent.watch(job.job_id)
        assert next(watched).state is JobState.QUEUED
        farm.revoke("trent")
        time.sleep(2 * REFRESH_S)
        local.cancel(job.job_id)
        with pytest.raises(errors.Forbidden, match="has ended or was revoked"):
            for seen in watched:
                assert seen.state is not JobState.CANCELLED


def test_who_is_revoked_can_not_renew_at_that_moment(farm: SecureFarm) -> None:
    path = farm.enrolled("peggy", "viewer")
    with closing(TuningLog.open(str(farm.log))) as log, log.writing() as connection:
        revoke(connection, "peggy")
    with pytest.raises(errors.Forbidden, match="has ended or was revoked"):
        renew_if_due(farm.secure, path, _in_days(CERTIFICATE_DAYS - 10))


# ------------------------------------------------------------------------------------- the ports


def _refused(channel: grpc.Channel, stub: Callable[[grpc.Channel], object] = FarmStub) -> str:
    """How a call of somebody who is not let in ends."""
    with channel, pytest.raises(grpc.RpcError) as caught:
        stub(channel).ListJobs(farm_pb2.ListJobsRequest(), timeout=10)  # type: ignore[attr-defined]
    return str(caught.value.code().name)


def test_without_a_certificate_of_the_farm_nobody_is_heard(
    farm: SecureFarm, tmp_path: Path
) -> None:
    authority = load_credentials(farm.enrolled("eve", "viewer")).authority
    other = Authority.create(tmp_path / "ca.pem", "other")
    key = new_key()
    forged = other.issue(Identity("ada", Role.ADMIN, ""), requested_key(signing_request(key)))
    for channel in (
        grpc.insecure_channel(farm.secure),
        rpc.secure_channel(farm.secure, authority),
        rpc.secure_channel(farm.secure, authority, key_pem(key), forged.certificate),
    ):
        assert _refused(channel) == "UNAVAILABLE"
    assert _refused(rpc.secure_channel(farm.enrolment, authority)) == "UNIMPLEMENTED"


def test_a_certificate_that_the_log_does_not_know_is_not_let_in(farm: SecureFarm) -> None:
    """Whoever stole the authority's file can make certificates, and can't put them into the log."""
    authority = Authority.load(farm.folder / "ca.pem")
    key = new_key()
    made = authority.issue(Identity("mallory", Role.ADMIN), requested_key(signing_request(key)))
    channel = rpc.secure_channel(farm.secure, authority.certificate, key_pem(key), made.certificate)
    assert _refused(channel) == "PERMISSION_DENIED"


def test_the_secret_is_told_to_no_other_farm(farm: SecureFarm, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "ca.pem", "other")
    token = Token(parse_token(farm.token("frank", "viewer")).secret, other.certificate_der)
    with pytest.raises(errors.Unavailable):
        enrol(farm.enrolment, token, tmp_path / "user.pem")
    assert not (tmp_path / "user.pem").exists()


def test_a_full_disk_spends_no_token(farm: SecureFarm, tmp_path: Path) -> None:
    token = farm.token("oscar", "viewer")

    def fill() -> None:  # as a full disk: nothing can be written
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))

    command = ("enroll", "--coordinator", farm.enrolment, "--credentials", tmp_path / "u.pem")
    done = subprocess.run(
        [*TUNEFARM, *map(str, command)],
        input=token,
        capture_output=True,
        text=True,
        preexec_fn=fill,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    assert "can't be written" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert run(*command, stdin=token).returncode == 0


def test_a_bad_request_spends_no_token(farm: SecureFarm, tmp_path: Path) -> None:
    token = parse_token(farm.token("grace", "viewer"))
    authority = load_credentials(farm.enrolled("heidi", "viewer")).authority
    with rpc.secure_channel(farm.enrolment, authority) as channel:
        stub = EnrolmentStub(channel)  # type: ignore[no-untyped-call]
        for request in (b"", b"nothing", b"x" * 9000, b"x" * 100_000):
            with pytest.raises(grpc.RpcError) as caught:
                stub.Enrol(farm_pb2.EnrolRequest(secret=token.secret, signing_request=request))
            assert caught.value.code().name in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
    assert enrol(farm.enrolment, token, tmp_path / "user.pem").name == "grace"


# ------------------------------------------------------------------------------------- renewal


def _in_days(days: float) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)


def test_credentials_are_renewed_when_it_is_time(farm: SecureFarm) -> None:
    path = farm.enrolled("ivan", "viewer")
    before = load_credentials(path)
    assert not renew_if_due(farm.secure, path, _in_days(10))
    assert load_credentials(path) == before
    assert renew_if_due(farm.secure, path, _in_days(CERTIFICATE_DAYS - 10))
    after = load_credentials(path)
    assert before.identity is not None
    assert after.identity is not None
    assert (after.identity.name, after.identity.role) == ("ivan", Role.VIEWER)
    assert after.identity.serial != before.identity.serial
    assert after.key != before.key
    with FarmClient(farm.secure, path) as ivan:
        ivan.jobs()
    with pytest.raises(errors.Forbidden, match="ended on"):
        renew_if_due(farm.secure, path, _in_days(CERTIFICATE_DAYS + 1))
    assert load_credentials(path) == after


def test_a_coordinator_that_is_not_there_does_not_cost_the_credentials(farm: SecureFarm) -> None:
    path = farm.enrolled("judy", "viewer")
    before = path.read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
    assert not renew_if_due(address, path, _in_days(CERTIFICATE_DAYS - 10))
    assert path.read_bytes() == before


def test_on_loopback_there_is_nothing_to_renew(farm: SecureFarm) -> None:
    request = farm_pb2.RenewRequest(signing_request=signing_request(new_key()))
    with (
        rpc.channel(farm.plain) as channel,
        pytest.raises(errors.BadRequest, match="on loopback nobody has a certificate"),
        rpc.client_errors("renewing", farm.plain),
    ):
        CertificatesStub(channel).Renew(request, timeout=10)  # type: ignore[no-untyped-call]


# ------------------------------------------------------------------------------------- metrics


def _unheard(port: int, tls: ssl.SSLContext, name: str) -> None:
    """Fails unless the port ends the connection of who shows this; as it may do that before its
    reason was read, there is none to be compared."""
    with pytest.raises((ssl.SSLError, ConnectionError)) as caught:
        scrape.get(port, tls, name)
    assert not isinstance(caught.value, ssl.SSLCertVerificationError), "we ended it"


def _is_refused(port: int, credentials: Path, name: str) -> str:
    """What a certificate of the farm is told that may not read metrics; empty if it may."""
    status, text = scrape.get(port, scrape.client(credentials), name)
    return text if status == 403 else ""


def test_the_coordinators_metrics_are_for_users_of_the_farm(
    farm: SecureFarm, tmp_path: Path
) -> None:
    path = farm.enrolled("prometheus", "viewer")
    authority = load_credentials(path).authority
    port, name = farm.metrics, rpc.COORDINATOR_NAME
    until(lambda: not _is_refused(port, path, name))  # new certificates are known in two seconds
    status, text = scrape.get(port, scrape.client(path), name)
    assert status == 200
    ends = "tunefarm_certificate_expiry_timestamp_seconds"
    in_days = [
        ((scrape.value(text, ends, {"holder": holder}) or 0) - time.time()) / 86400
        for holder in ("coordinator", "authority")
    ]
    assert CERTIFICATE_DAYS - 2 < in_days[0] <= CERTIFICATE_DAYS < in_days[1]
    refused = {"method": "ListJobs", "code": "PERMISSION_DENIED"}
    before = scrape.value(text, "tunefarm_refusals_total", refused) or 0

    agents = farm.enrolled("pi-5", "agent")
    with FarmClient(farm.secure, agents) as agent, pytest.raises(errors.Forbidden):
        agent.jobs()
    until(lambda: "metrics is for the roles viewer" in _is_refused(port, agents, name))
    _, text = scrape.get(port, scrape.client(path), name)
    assert scrape.value(text, "tunefarm_refusals_total", refused) == before + 1

    _unheard(port, scrape.stranger(authority), name)
    other = Authority.create(tmp_path / "ca.pem", "other")
    key = new_key()
    forged = other.issue(Identity("ada", Role.ADMIN), requested_key(signing_request(key)))
    Credentials(key_pem(key), forged.certificate, authority).save(tmp_path / "forged.pem")
    _unheard(port, scrape.client(tmp_path / "forged.pem"), name)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        scrape.get(port)  # in plain text

    farm.revoke("prometheus")
    until(lambda: "has ended or was revoked" in _is_refused(port, path, name))


def test_a_devices_metrics_are_for_users_of_the_farm(farm: SecureFarm, tmp_path: Path) -> None:
    device, user = farm.enrolled("pi-6", "agent"), farm.enrolled("grafana", "viewer")
    command = [
        *(*TUNEFARM, "-v", "agent", "--coordinator", farm.secure, "--credentials", str(device)),
        *("--replay", "10ms", "--target", TARGET, "--name", "pi-6", "--metrics", "0.0.0.0:0"),
    ]
    said = tmp_path / "agent.err"
    with said.open("w") as file:
        agent = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=file)
    try:
        until(lambda: "metrics on port" in said.read_text() or agent.poll() is not None)
        found = re.search(r"metrics on port (\d+)", said.read_text())
        assert found is not None, said.read_text()
        port = int(found[1])
        status, text = scrape.get(port, scrape.client(user), rpc.AGENT_NAME)
        assert status == 200
        ends = {"holder": "agent"}
        expiry = scrape.value(text, "tunefarm_certificate_expiry_timestamp_seconds", ends)
        assert expiry == load_credentials(device).expires.timestamp()
        assert "pi-6 is an agent" in _is_refused(port, device, rpc.AGENT_NAME)
        authority = load_credentials(user).authority
        _unheard(port, scrape.stranger(authority), rpc.AGENT_NAME)
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            scrape.get(port, scrape.client(user), rpc.COORDINATOR_NAME)  # it is none
    finally:
        agent.terminate()
        agent.wait(PATIENCE_S)


# ------------------------------------------------------------------------------------- what is said


def test_nothing_secret_is_ever_printed(farm: SecureFarm) -> None:
    token = farm.token("ken", "viewer")
    path = farm.folder / "ken.pem"
    enrol(farm.enrolment, parse_token(token), path)
    printed = farm.printed()
    assert "ken enrolled as viewer" in printed
    assert token not in printed
    assert "PRIVATE" not in printed
    body = "".join(load_credentials(path).key.decode().splitlines()[1:-1])
    assert body[:40] not in printed


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("serve", "--listen", "0.0.0.0:7411"), "--listen-tls"),
        (("serve", "--listen-tls", "0.0.0.0:0", "--ca", "/nowhere/ca.pem"), "tunefarm ca init"),
        (("serve", "--listen-enroll", "0.0.0.0:7413"), "for farms with --listen-tls"),
        (("serve", "--listen-tls", "here"), "is not HOST:PORT"),
        (("ca", "token", "a/b", "--role", "agent"), "no name for a certificate"),
        (("ca", "token", "a", "--role", "agent", "--ca", "/nowhere/ca.pem"), "tunefarm ca init"),
        (("ca", "token", "a", "--role", "agent", "--valid", "9999h"), "720h at most"),
        (("jobs", "list", "--coordinator", "farm.example:7412"), "takes mutual TLS. Enrol first"),
        (("agent", "--coordinator", "farm.example:7412"), "takes mutual TLS. Enrol first"),
        (("jobs", "--coordinator", "a.b:1", "--credentials", "no.pem"), "no credentials in no.pem"),
        (("enroll", "--coordinator", "farm.example"), "no whole token"),
    ],
)
def test_what_can_not_be_is_said_before_anything_starts(
    arguments: tuple[str, ...],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TUNEFARM_CREDENTIALS", raising=False)
    done = run(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.rglob("*")) == []
