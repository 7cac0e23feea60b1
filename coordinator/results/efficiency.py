"""What an inference costs in price and energy, by the labels of the device (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from coordinator.results.page.scale import number
from protos.labels import PRICE, WATTS, label_number
from protos.records import MIXED, OWN, ModelResult

_MS_PER_HOUR = 3.6e6

NOT_METERED = "at the label's watts, not metered"
"""Said wherever an energy is shown."""


@dataclass(frozen=True)
class Efficiency:
    """One way to run the whole model: the tuned one, in an engine or the mixture.

    ``inferences_per_price`` is how many inferences, one after the other, a unit of price pays for;
    ``energy_mj`` are the millijoules of one, its latency times the label's watts. None where the
    device has no such label.
    """

    name: str
    latency_ms: float
    packaged: bool
    inferences_per_price: float | None
    energy_mj: float | None

    def __str__(self) -> str:
        """For people, without its name."""
        said = []
        if self.inferences_per_price is not None:
            said.append(f"{number(self.inferences_per_price)} inferences per unit of price")
        if self.energy_mj is not None:
            said.append(f"{number(self.energy_mj)} mJ per inference ({NOT_METERED})")
        return ", ".join(said)


def efficiencies(result: ModelResult) -> list[Efficiency]:
    """Every way to run the model that was timed; none if the device has neither label."""
    price, watts = label_number(result.labels, PRICE), label_number(result.labels, WATTS)
    if price is None and watts is None:
        return []
    return [
        Efficiency(
            name,
            latency_ms,
            name == result.engine,
            None if price is None else _MS_PER_HOUR / latency_ms / price,
            None if watts is None else watts * latency_ms,
        )
        for name, latency_ms in _timed(result)
    ]


def _timed(result: ModelResult) -> Iterator[tuple[str, float]]:
    ways = [(OWN, result.tuned_ms), *((one.name, one.latency_ms) for one in result.engines)]
    for name, latency_ms in (*ways, (MIXED, result.mixed_ms)):
        if latency_ms:
            yield name, latency_ms
