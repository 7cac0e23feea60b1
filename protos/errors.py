"""What a refusal or a defect is called. The tree::

    FarmError                       anything we raise on purpose
    ├── BadRequest                  what the caller gave is wrong; the message says what to do
    │   ├── BadModel                not a model, or nothing in it can be tuned
    │   ├── BadTarget               unknown or unusable target
    │   └── ProtocolViolation       a peer broke the contract of the stream
    ├── Forbidden                   the caller may not do this, or is not known
    ├── NotFound                    no such job, device, package, artifact
    ├── Conflict                    it exists, but its state does not allow this
    ├── Unavailable                 not now: no device, no coordinator, shutting down
    ├── StaleSchema                 the tuning log's schema is not this version's
    ├── LogUnavailable              the tuning log's database refused or vanished
    └── JobFailed                   the farm tried and could not; the job carries the reason

A device's or a compiler's failure is not an exception but a ``Measurement`` with a status.
"""

from __future__ import annotations


class FarmError(Exception):
    """Anything we raise on purpose; ``str()`` is a sentence for people."""


class BadRequest(FarmError):
    """What the caller gave is wrong; nothing was changed."""


class BadModel(BadRequest):
    """Not a model, or one in which nothing can be tuned; what can't be imported is named."""


class BadTarget(BadRequest):
    """Unknown or unusable target."""


class ProtocolViolation(BadRequest):
    """A peer broke the contract of the stream."""


class Forbidden(FarmError):
    """The caller may not do this, or is not known (any more)."""


class NotFound(FarmError):
    """No such job, device, package or artifact."""


class Conflict(FarmError):
    """It exists, but its state does not allow this."""


class Unavailable(FarmError):
    """Not now: no device, no coordinator, or shutting down."""


class StaleSchema(FarmError):
    """The tuning log was made by another version; the message has the command that helps."""


class LogUnavailable(FarmError):
    """The tuning log's database refused or vanished."""


class JobFailed(FarmError):
    """The farm tried and could not."""
