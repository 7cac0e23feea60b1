"""Which role may call what (pure). What is not named here, nobody may call but on loopback."""

from __future__ import annotations

from collections.abc import Mapping

from protos.errors import Forbidden
from protos.identity import Identity, Role

_USERS = frozenset({Role.VIEWER, Role.SUBMITTER, Role.ADMIN})
_SUBMITTERS = frozenset({Role.SUBMITTER, Role.ADMIN})
_AGENTS = frozenset({Role.AGENT})

_GATEWAY, _FARM = "/tunefarm.v1.AgentGateway/", "/tunefarm.v1.Farm/"
_REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/"

MAY_CALL: Mapping[str, frozenset[Role]] = {
    _GATEWAY + "Session": _AGENTS,
    _GATEWAY + "FetchArtifact": _AGENTS,
    _FARM + "GetJob": _USERS,
    _FARM + "WatchJob": _USERS,
    _FARM + "ListJobs": _USERS,
    _FARM + "ListDevices": _USERS,
    _FARM + "ListDeviceEvents": _USERS,
    _FARM + "FetchMeasurements": _USERS,
    _FARM + "PredictModel": _USERS,
    _FARM + "SubmitJob": _SUBMITTERS,
    _FARM + "CancelJob": _SUBMITTERS,
    _FARM + "PauseJob": _SUBMITTERS,
    _FARM + "ResumeJob": _SUBMITTERS,
    _FARM + "SetJobPriority": _SUBMITTERS,
    _FARM + "ControlDevice": frozenset({Role.ADMIN}),
    _FARM + "FetchPackage": _SUBMITTERS,
    "/metrics": _USERS,
    "/tunefarm.v1.Certificates/Renew": frozenset(Role),
    "/grpc.health.v1.Health/Check": frozenset(Role),
    "/grpc.health.v1.Health/Watch": frozenset(Role),
    _REFLECTION + "ServerReflectionInfo": _USERS,
}


def check_may_call(method: str, who: Identity) -> None:
    """Raise Forbidden unless ``who`` may call this method, as gRPC names it in full, or read this
    page."""
    roles = MAY_CALL.get(method, frozenset())
    if who.role not in roles:
        allowed = ", ".join(role.value for role in Role if role in roles)
        raise Forbidden(
            f"{who.name} is {_a(who.role.value)}; {method.rpartition('/')[2]} is for "
            + (f"the roles {allowed}" if allowed else "nobody on this port")
        )


def check_owns(job_owner: str, who: Identity | None) -> None:
    """Raise Forbidden unless ``who`` may end or change this user's job: their own, any for an
    admin or on loopback (None)."""
    if who is not None and who.role is not Role.ADMIN and who.name != job_owner:
        raise Forbidden(f"the job is {job_owner}'s; {who.name} may change their own jobs only")


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"
