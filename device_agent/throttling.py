"""Whether a Raspberry Pi was held back while it was measured (pure): by heat, or by its supply.

Its firmware says so in one word, such as ``0x50005``: bits 0-3 are now, bits 16-19 since it was
started (https://www.raspberrypi.com/documentation/computers/os.html#get_throttled). What an x86 CPU
counts is kept with a measurement and decides nothing: some count all the time.
"""

from __future__ import annotations

import re
from dataclasses import replace

from device_agent.canary import IN_DOUBT
from protos.records import Measurement, MeasurementStatus, Telemetry

_CAUSES = {
    0: "its supply's voltage is too low",
    1: "its clock is capped",
    2: "it is throttled",
    3: "it is too hot",
}
_SINCE_START = 16
NOW = sum(1 << bit for bit in _CAUSES)
"""Of the word, the bits that are of this moment."""


def held_back(before: Telemetry, after: Telemetry) -> str:
    """What held the board back at one of these moments or between them, for people; empty if
    nothing did, or if it does not say."""
    first, last = word(before.throttled) or 0, word(after.throttled) or 0
    bits = (first | last | (last & ~first) >> _SINCE_START) & NOW
    if not bits:
        return ""
    causes = ", ".join(cause for bit, cause in _CAUSES.items() if bits >> bit & 1)
    return f"the board is held back: {causes} ({after.throttled or before.throttled})"


def judged(measurement: Measurement) -> Measurement:
    """A measurement as it is reported: in doubt if the board was held back meanwhile."""
    circumstances = measurement.circumstances
    if circumstances is None or measurement.status not in IN_DOUBT:
        return measurement
    error = held_back(circumstances.before, circumstances.after)
    if not error:
        return measurement
    if measurement.error:
        error += f"; {measurement.error}"
    return replace(measurement, status=MeasurementStatus.SUSPECT, error=error)


def word(said: str | None) -> int | None:
    """The firmware's word in what ``Telemetry.throttled`` says; None if it is not one."""
    said = said or ""
    return int(said, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,8}", said) else None
