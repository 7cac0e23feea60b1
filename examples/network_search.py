"""The most accurate of five networks that is fast enough: ``python -m examples.network_search``.

Asks a running farm how long each of five small convolutional networks (``examples.small_networks``)
would take on a device. That needs neither the device nor trained weights, so those that are surely
too slow are not even trained. The others are, with NumPy, and are measured, the most accurate
first, until one keeps to the limit. A farm, and something that it can learn from:

    tunefarm serve
    tunefarm agent
    tunefarm submit some-model.onnx --watch
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from coordinator.farm import DEFAULT_ADDRESS, MEASURE_TRIALS, Farm, Measured
from examples.small_networks import VARIANTS, Network, Variant
from protos.errors import FarmError
from protos.records import Prediction

STEPS = 120
BATCH = 192
"""Pictures that the networks are to classify at once."""


@dataclass(frozen=True)
class Found:
    """A design with what is known of it: ``accuracy`` is None if it was not worth training, and
    ``measured`` if that was not needed; ``model`` is its ONNX file."""

    variant: Variant
    predicted: Prediction
    model: bytes = b""
    accuracy: float | None = None
    measured: Measured | None = None

    def fits(self, limit_ms: float) -> bool:
        """Whether it was measured and keeps to the limit."""
        return self.measured is not None and self.measured.latency_ms <= limit_ms

    def is_too_slow(self, limit_ms: float) -> bool:
        """Whether even the lower end of its interval is above the limit."""
        return self.predicted.low_ms > limit_ms


@dataclass(frozen=True)
class Search:
    """What is looked for: milliseconds for so many pictures at once on this device, and what it may
    cost to find: steps of training, trials of each measurement."""

    limit_ms: float = 5.0
    device: str = ""
    batch: int = BATCH
    steps: int = STEPS
    trials: int = MEASURE_TRIALS

    def run(
        self,
        farm: Farm,
        variants: Sequence[Variant],
        say: Callable[[str], None] = lambda line: None,
    ) -> list[Found]:
        """The most accurate first, those that are too slow last; the first that ``fits`` is the
        answer. Raises a FarmError as ``Farm`` does."""
        found = [
            Found(variant, farm.predict(Network(variant).onnx(self.batch), self.device))
            for variant in variants
        ]
        for index, one in enumerate(found):
            latency = f"{one.variant.name}: {one.predicted.latency_ms:.3f} ms predicted"
            if one.is_too_slow(self.limit_ms):
                say(f"{latency}, left out")
                continue
            say(f"{latency}, is trained")
            found[index] = self._trained(one)
        found.sort(key=lambda one: (-(one.accuracy or 0.0), one.predicted.latency_ms))
        for index, one in enumerate(found):
            if one.accuracy is None:
                break
            say(f"{one.variant.name}: is measured")
            measured = farm.measure(one.model, self.device, trials=self.trials)
            found[index] = replace(one, measured=measured)
            if found[index].fits(self.limit_ms):
                break
        return found

    def _trained(self, one: Found) -> Found:
        network = Network(one.variant)
        network.train(self.steps)
        return replace(one, model=network.onnx(self.batch), accuracy=network.accuracy())


def table(found: Sequence[Found], limit_ms: float) -> str:
    """A line for each network, and the answer."""
    heads = f"{'predicted ms':>13} {'interval':>18} {'measured':>9}"
    lines = [f"{'network':10} {'accuracy':>8} {heads}"]
    for one in found:
        p = one.predicted
        accuracy = "-" if one.accuracy is None else f"{100 * one.accuracy:.1f} %"
        span = f"{p.low_ms:.3f} to {p.high_ms:.3f}"
        real = f"{one.measured.latency_ms:.3f}" if one.measured else "-"
        lines.append(
            f"{one.variant.name:10} {accuracy:>8} {p.latency_ms:13.3f} {span:>18} {real:>9}"
        )
    best = next((one for one in found if one.fits(limit_ms)), None)
    lines.append(
        f"the most accurate within {limit_ms:g} ms: {best.variant.name}"
        if best
        else f"none keeps to {limit_ms:g} ms: allow more, or design a smaller one"
    )
    return "\n".join(lines)


def main() -> int:
    """Train, search and print; returns the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.network_search")
    parser.add_argument("--coordinator", default=DEFAULT_ADDRESS, help="HOST:PORT")
    parser.add_argument("--device", default="", help="a device or kind (default: the only kind)")
    parser.add_argument("--limit-ms", type=float, default=5.0, help="milliseconds (default: 5)")
    parser.add_argument("--batch", type=int, default=BATCH, help="pictures at once")
    parser.add_argument("--steps", type=int, default=STEPS, help="of training")
    parser.add_argument("--trials", type=int, default=MEASURE_TRIALS, help="of each measurement")
    options = parser.parse_args()
    wanted = Search(options.limit_ms, options.device, options.batch, options.steps, options.trials)
    try:
        with Farm(options.coordinator) as farm:
            found = wanted.run(farm, VARIANTS, lambda line: print(line, file=sys.stderr))
    except FarmError as error:
        print(f"network_search: {error}", file=sys.stderr)
        return 3
    print(table(found, options.limit_ms))
    return 0


if __name__ == "__main__":
    sys.exit(main())
