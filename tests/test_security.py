"""Names, tokens, keys, certificates and what the log knows of them."""

from __future__ import annotations

import datetime
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from coordinator.experiments import EVALUATOR
from coordinator.fleet.leases import Batch, Leases, Outstanding
from coordinator.fleet.registry import Registry, Session
from coordinator.security.authority import CERTIFICATE_DAYS, Authority
from coordinator.security.permissions import MAY_CALL, check_may_call, check_owns
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.identities import (
    add_certificate,
    add_token,
    good_serials,
    known,
    open_tokens,
    renew,
    revoke,
    use_token,
)
from protos import farm_pb2, rpc
from protos.certificates import (
    Credentials,
    identity_of,
    key_pem,
    load_credentials,
    new_key,
    requested_key,
    signing_request,
)
from protos.enrolment import SECRET_BYTES, Token, parse_token
from protos.errors import BadRequest, Conflict, Forbidden, NotFound
from protos.identity import Identity, Role, check_name, from_uri
from protos.private_files import read_private, write_private
from protos.records import Artifact, Device, Lease, ModelWork, sha256_hex

pytest_plugins = ("tests.postgres",)

PI = Identity("pi-rack3-07", Role.AGENT)
ALICE = Identity("alice", Role.SUBMITTER)


# ------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["a", "pi-rack3-07", "A.b_c", "0", "x" * 64])
def test_names_that_a_certificate_may_carry(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "-a", "a/b", "a b", "a\n", "x" * 65, "ä", "../a", "a:b", "a\x00"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(BadRequest, match="no name for a certificate"):
        check_name(name)


@pytest.mark.parametrize("role", Role)
def test_an_identity_comes_back_from_its_uri(role: Role) -> None:
    assert from_uri(Identity("pi-7", role).uri, "ab") == Identity("pi-7", role, "ab")


@pytest.mark.parametrize(
    "uri",
    ["", "tunefarm:", "tunefarm:agent/", "tunefarm:root/pi", "http:agent/pi", "tunefarm:agent/a/b"],
)
def test_other_uris_are_nobodys(uri: str) -> None:
    assert from_uri(uri, "ab") is None


# ------------------------------------------------------------------------------------- files


def test_a_private_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key.pem"
    write_private(path, b"first")
    write_private(path, b"second")
    assert read_private(path) == b"second"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["key.pem"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    write_private(path, b"key")
    path.chmod(mode)
    with pytest.raises(BadRequest, match="chmod 600"):
        read_private(path)


def test_a_folder_in_place_of_the_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="can't be written"):
        write_private(tmp_path, b"key")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------- tokens


def test_a_token_comes_back_from_its_text() -> None:
    token = Token(bytes(range(SECRET_BYTES)), b"the authority")
    assert parse_token(f"  {token.text}\n") == token
    assert token.text.startswith("tunefarm1.")
    assert "secret" not in repr(token).lower()


@pytest.mark.parametrize("text", ["", "tunefarm1.", "tunefarm1.AAAA", "tunefarm1.ä", "hunter2" * 9])
def test_other_texts_are_no_tokens_and_are_not_repeated(text: str) -> None:
    with pytest.raises(BadRequest, match="no whole token") as caught:
        parse_token(text)
    assert not text or "hunter2" not in str(caught.value)


# ------------------------------------------------------------------------------------- authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("ca") / "ca.pem", "here")


def issued(authority: Authority, who: Identity) -> Credentials:
    key = new_key()
    made = authority.issue(who, requested_key(signing_request(key)))
    return Credentials(key_pem(key), made.certificate, authority.certificate)


def test_an_authority_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    made = Authority.create(path, "here")
    before = path.read_bytes()
    with pytest.raises(Conflict, match="is there already"):
        Authority.create(path, "here")
    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o777 == 0o600
    assert Authority.load(path).certificate == made.certificate
    assert made.expires > datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3000)


def test_what_is_no_authority_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="tunefarm ca init"):
        Authority.load(tmp_path / "none.pem")
    write_private(tmp_path / "ca.pem", b"-----BEGIN NOTHING-----")
    with pytest.raises(BadRequest, match="holds no certificate authority"):
        Authority.load(tmp_path / "ca.pem")


def test_a_certificate_says_who_and_openssl_takes_it(authority: Authority, tmp_path: Path) -> None:
    credentials = issued(authority, ALICE)
    identity = identity_of(credentials.certificate)
    assert identity is not None
    assert (identity.name, identity.role) == ("alice", Role.SUBMITTER)
    assert len(identity.serial) > 20
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    (tmp_path / "own.pem").write_bytes(credentials.certificate)
    device = issued(authority, PI)
    (tmp_path / "device.pem").write_bytes(device.certificate)
    assert (credentials.for_servers, device.for_servers) == (False, True)  # a device shows metrics
    for purpose, file, taken in (
        ("sslclient", "own.pem", True),
        ("sslserver", "own.pem", False),
        ("sslclient", "device.pem", True),
        ("sslserver", "device.pem", True),
    ):
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.pem"]
        done = subprocess.run([*command, file], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode == 0) is taken, done.stdout + done.stderr


def test_only_a_coordinators_certificate_has_the_coordinators_name(authority: Authority) -> None:
    def names(pem: bytes) -> list[str]:
        found = x509.load_pem_x509_certificate(pem).extensions
        value = found.get_extension_for_class(x509.SubjectAlternativeName).value
        return value.get_values_for_type(x509.DNSName)

    _, certificate = authority.for_coordinator()
    assert names(certificate) == [rpc.COORDINATOR_NAME]
    assert identity_of(certificate) is None
    pretender = Identity(rpc.COORDINATOR_NAME, Role.AGENT)
    assert names(issued(authority, pretender).certificate) == [rpc.AGENT_NAME]
    assert names(issued(authority, Identity(rpc.COORDINATOR_NAME, Role.ADMIN)).certificate) == []


def test_a_request_must_be_signed_with_a_key_of_the_right_kind() -> None:
    def request(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        algorithm = hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey) else None
        return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)

    good = request(new_key())
    assert requested_key(good)
    forged = good[:-4] + bytes(byte ^ 1 for byte in good[-4:])
    others = [request(ec.generate_private_key(ec.SECP384R1()))]
    others.append(request(ed25519.Ed25519PrivateKey.generate()))
    of_no_version = good.replace(b"\x02\x01\x00", b"\x02\x01\x10", 1)
    for wrong in (b"", b"nothing", good[:50], forged, of_no_version, *others):
        with pytest.raises(BadRequest):
            requested_key(wrong)


def test_credentials_come_back_from_their_file(authority: Authority, tmp_path: Path) -> None:
    credentials = issued(authority, ALICE)
    path = tmp_path / "user.pem"
    credentials.save(path)
    assert load_credentials(path) == credentials
    assert "PRIVATE" not in repr(credentials)
    write_private(path, credentials.key + credentials.certificate)
    with pytest.raises(BadRequest, match="holds 1 certificates"):
        load_credentials(path)
    write_private(path, b"nothing")
    with pytest.raises(BadRequest, match="holds no credentials"):
        load_credentials(path)
    with pytest.raises(BadRequest, match="tunefarm enroll"):
        load_credentials(tmp_path / "none.pem")


def test_credentials_are_due_after_two_thirds_of_their_life(authority: Authority) -> None:
    credentials, now = issued(authority, ALICE), datetime.datetime.now(datetime.UTC)
    days = [
        day
        for day in range(CERTIFICATE_DAYS)
        if credentials.due(now + datetime.timedelta(days=day))
    ]
    assert days == list(range(CERTIFICATE_DAYS * 2 // 3, CERTIFICATE_DAYS))


# ------------------------------------------------------------------------------------- the log


def test_a_token_is_good_once(log: TuningLog) -> None:
    with log.writing() as connection:
        add_token(connection, b"secret", PI, 60.0)
        assert [(t.name, t.role) for t in open_tokens(connection)] == [("pi-rack3-07", Role.AGENT)]
    with log.writing() as connection:
        assert use_token(connection, b"secret") == PI
    with log.writing() as connection:
        assert open_tokens(connection) == []
        with pytest.raises(Forbidden, match="not good"):
            use_token(connection, b"secret")


def test_a_token_that_failed_to_become_a_certificate_is_still_good(log: TuningLog) -> None:
    with log.writing() as connection:
        add_token(connection, b"secret", PI, 60.0)
    with pytest.raises(ZeroDivisionError), log.writing() as connection:
        use_token(connection, b"secret")
        raise ZeroDivisionError
    with log.writing() as connection:
        assert use_token(connection, b"secret") == PI


def test_of_two_at_once_one_gets_the_certificate(log: TuningLog) -> None:
    with log.writing() as connection:
        add_token(connection, b"secret", PI, 60.0)
    found: list[object] = []
    start = threading.Barrier(4)

    def use() -> None:
        start.wait()
        try:
            with log.writing() as connection:
                found.append(use_token(connection, b"secret"))
        except Forbidden:
            found.append(None)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, found)) == sorted(map(str, [PI, None, None, None]))


def test_expired_and_unknown_tokens_are_refused_alike(log: TuningLog) -> None:
    with log.writing() as connection:
        add_token(connection, b"late", PI, -1.0)
    for secret in (b"late", b"never", b""):
        with log.writing() as connection, pytest.raises(Forbidden, match="not good"):
            use_token(connection, secret)


def test_revoking_ends_a_names_certificates_and_tokens_and_no_others(log: TuningLog) -> None:
    later = 4e9
    serials = [Identity("pi-7", Role.AGENT, "a1"), Identity("pi-7", Role.AGENT, "a2")]
    with log.writing() as connection:
        for who in (*serials, Identity("pi-8", Role.AGENT, "b1")):
            add_certificate(connection, who, later)
        add_certificate(connection, Identity("pi-9", Role.AGENT, "c1"), 1.0)  # long ago
        add_token(connection, b"secret", Identity("pi-7", Role.AGENT), 60.0)
        assert good_serials(connection) == {"a1", "a2", "b1"}
    with log.writing() as connection:
        assert revoke(connection, "pi-7") == 2
    with log.writing() as connection:
        assert good_serials(connection) == {"b1"}
        assert open_tokens(connection) == []
        assert {c.identity.serial for c in known(connection) if c.revoked_at} == {"a1", "a2"}
        for nobody in ("pi-7", "pi-9", "nobody"):
            with pytest.raises(NotFound, match="still good"):
                revoke(connection, nobody)


def test_who_was_revoked_renews_nothing(log: TuningLog) -> None:
    old, new = Identity("pi-7", Role.AGENT, "a1"), Identity("pi-7", Role.AGENT, "a2")
    with log.writing() as connection:
        add_certificate(connection, old, 4e9)
        revoke(connection, "pi-7")
    for unknown in (old, Identity("pi-7", Role.AGENT, "never")):
        with pytest.raises(Forbidden, match="revoked"), log.writing() as connection:
            renew(connection, unknown, new, 4e9)
    with log.reading() as connection:
        assert good_serials(connection) == set()


@pytest.mark.parametrize("how", ["renewed", "enrolled"])
def test_a_certificate_that_is_made_meanwhile_is_revoked_too(log: TuningLog, how: str) -> None:
    old, new = Identity("pi-7", Role.AGENT, "a1"), Identity("pi-7", Role.AGENT, "a2")
    with log.writing() as connection:
        add_certificate(connection, old, 4e9)
        add_token(connection, b"secret", old, 60.0)
    made, wait = threading.Event(), threading.Event()

    def make() -> None:
        with log.writing() as connection:
            if how == "renewed":
                renew(connection, old, new, 4e9)
            else:
                use_token(connection, b"secret")
                add_certificate(connection, new, 4e9)
            made.set()
            wait.wait(0.5)  # the other one comes meanwhile

    maker = threading.Thread(target=make)
    maker.start()
    made.wait()
    with log.writing() as connection:
        revoke(connection, "pi-7")
    maker.join()
    with log.reading() as connection:
        assert good_serials(connection) == set()


# ------------------------------------------------------------------------------------- permissions


def test_every_call_has_its_roles() -> None:
    """But for those of the port for enrolments, which nobody shows a certificate at."""
    calls = {
        f"/{service.full_name}/{method.name}"
        for service in farm_pb2.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if service.name != "Enrolment"
    }
    assert calls == {call for call in MAY_CALL if call.startswith("/tunefarm.v1.")}
    assert all(MAY_CALL.values())


@pytest.mark.parametrize(
    ("method", "roles"),
    [
        ("/tunefarm.v1.AgentGateway/Session", "agent"),
        ("/tunefarm.v1.AgentGateway/FetchArtifact", "agent"),
        ("/tunefarm.v1.Farm/ListJobs", "viewer submitter admin"),
        ("/tunefarm.v1.Farm/FetchMeasurements", "viewer submitter admin"),
        ("/tunefarm.v1.Farm/SubmitJob", "submitter admin"),
        ("/tunefarm.v1.Farm/CancelJob", "submitter admin"),
        ("/tunefarm.v1.Farm/FetchPackage", "submitter admin"),
        ("/tunefarm.v1.Certificates/Renew", "agent viewer submitter admin"),
        ("/tunefarm.v1.Farm/SomethingNew", ""),
    ],
)
def test_who_may_call_what(method: str, roles: str) -> None:
    for role in Role:
        who = Identity("somebody", role)
        if role.value in roles.split():
            check_may_call(method, who)
        else:
            with pytest.raises(Forbidden, match=f"somebody is an? {role.value}"):
                check_may_call(method, who)


def test_a_job_is_its_owners_and_the_admins() -> None:
    for who in (None, ALICE, Identity("root", Role.ADMIN)):
        check_owns("alice", who)
    with pytest.raises(Forbidden, match="the job is alice's"):
        check_owns("alice", Identity("bob", Role.SUBMITTER))


def _device(name: str) -> Device:
    return Device(name, '{"kind":"llvm","num-cores":1}', "a CPU", (0,), 1, False, {}, host="host")


def test_a_device_joins_under_the_name_of_its_certificate_only() -> None:
    registry = Registry()
    with pytest.raises(Forbidden, match="the certificate is pi-rack3-07's"):
        registry.join(_device("pi-rack3-08"), PI)
    assert registry.sessions == {}
    assert registry.join(_device("pi-rack3-07"), PI).identity == PI
    assert registry.join(_device("on-loopback")).identity is None


def test_an_artifact_is_for_the_device_whose_lease_names_it() -> None:
    data = b"examples"
    artifact = Artifact(sha256_hex(data), len(data), data)
    work = ModelWork((), artifact, EVALUATOR, num_threads=1)
    session = Session(_device("pi-rack3-07"))
    leases = Leases()
    lease = Lease("l1", "j1", 30.0, model=work)
    leases.add(Outstanding(lease, Batch("j1", "kind", work), session, 0.0, {}))
    for device in ("pi-rack3-07", None):
        assert leases.naming(artifact.sha256, device)[1] == artifact
    with pytest.raises(NotFound):
        leases.naming(artifact.sha256, "pi-rack3-08")
