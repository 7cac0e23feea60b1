"""The services that give certificates: once for a token, and again to who has one."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from coordinator.security.authority import Authority, Issued
from coordinator.security.guard import Guard, caller
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.identities import add_certificate, renew, use_token
from protos import farm_pb2, farm_pb2_grpc
from protos.certificates import requested_key
from protos.errors import BadRequest
from protos.identity import Identity
from protos.rpc import aborts

log = logging.getLogger(__name__)


class Enrolment(farm_pb2_grpc.EnrolmentServicer):
    """On the port where callers show no certificate."""

    def __init__(self, authority: Authority, tuning_log: TuningLog) -> None:
        self._authority = authority
        self._log = tuning_log

    @aborts
    async def Enrol(  # noqa: N802 (the RPC's name)
        self, request: farm_pb2.EnrolRequest, context: Any
    ) -> farm_pb2.Certificate:
        """A certificate for a token."""
        issued = await asyncio.to_thread(self._issue, request.secret, request.signing_request)
        log.info("%s enrolled as %s", issued.identity.name, issued.identity.role.value)
        return farm_pb2.Certificate(certificate=issued.certificate)

    def _issue(self, secret: bytes, signing_request: bytes) -> Issued:
        key = requested_key(signing_request)
        with self._log.writing() as connection:  # the token is spent if the certificate is known
            issued = self._authority.issue(use_token(connection, secret), key)
            add_certificate(connection, issued.identity, issued.expires_at)
        return issued


class Certificates(farm_pb2_grpc.CertificatesServicer):
    """On the port where callers show theirs."""

    def __init__(self, authority: Authority, tuning_log: TuningLog, guard: Guard) -> None:
        self._authority = authority
        self._log = tuning_log
        self._guard = guard

    @aborts
    async def Renew(  # noqa: N802
        self, request: farm_pb2.RenewRequest, context: Any
    ) -> farm_pb2.Certificate:
        """Another certificate for the same identity. The one before stays good to its end, as the
        new one may get lost on the way."""
        who = caller(context)
        if who is None:
            raise BadRequest("on loopback nobody has a certificate")
        issued = await asyncio.to_thread(self._renewed, who, request.signing_request)
        await self._guard.refresh()
        return farm_pb2.Certificate(certificate=issued.certificate)

    def _renewed(self, who: Identity, signing_request: bytes) -> Issued:
        issued = self._authority.issue(who, requested_key(signing_request))
        with self._log.writing() as connection:
            renew(connection, who, issued.identity, issued.expires_at)
        return issued
