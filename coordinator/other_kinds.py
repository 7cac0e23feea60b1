"""Other kinds of device of a tuning log: what they know is worth something to a job."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from coordinator.experiments import Lab
from coordinator.frontend.target import vector_lanes_of
from protos.errors import BadTarget

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OtherKind:
    """A kind of device, and how many float32 elements its CPU's vectors have; None if the log does
    not know its target."""

    name: str
    lanes: int | None


def other_kinds(lab: Lab) -> list[OtherKind]:
    """All kinds that the log has measurements of, but for the job's own."""
    names = [name for name in lab.tuning_log.kinds() if name != lab.device.kind]
    return [OtherKind(name, _lanes(lab, name)) for name in names]


def _lanes(lab: Lab, kind: str) -> int | None:
    target_json = lab.tuning_log.target_of(kind)
    try:
        return vector_lanes_of(target_json) if target_json else None
    except BadTarget as error:  # an import may name one that this version does not have
        log.warning("the target of the kind of device %s: %s", kind, error)
        return None
