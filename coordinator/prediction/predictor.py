"""Predicts the latency of the package that the farm would make of a model (pure).

Each operator takes what the tuning log knows for one of its shape, and otherwise what the latency
model says; the sum is calibrated by the finished models of that kind of device, each predicted as
if it had never been tuned.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from coordinator.prediction.graph import GraphOperator
from coordinator.prediction.workloads import products
from cost_model.latency import ELEMENTWISE, PRODUCTS, LatencyModel, Operator, Timed

COVERAGE = 0.9
"""The share of models whose latency the interval is to hold."""

CALL_US = 50.0
"""What a call of a package takes beside its operators (docs/prediction.md): it matters below a
millisecond only."""

SETTLED_TRIALS = 32
"""With fewer candidates an operator's time may still fall to what the latency model says of it."""

MAX_FOLDS = 10

_PRIOR_LOG_RATIO = math.log(1.25)
_PRIOR_SPREAD = 0.3
_PRIOR_MODELS = 1.0
_PRIOR_FREEDOM = 2.0
"""A model takes longer than its operators one by one, in warm caches: before any is finished we
take it for a quarter, give or take 30 %, and trust that as much as one finished model (the spread:
as much as two)."""

_RATES_US_PER_MB = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0)
"""What reading weights may take: 10 µs for a megabyte are 100 GB/s."""

_MODELS_FOR_RATE = 4
"""Fewer finished models can't tell what the weights take."""


@dataclass(frozen=True)
class Known:
    """A timed operator, the SHA-256 of the models that have it, and how many candidates of it were
    tried."""

    timed: Timed
    models: frozenset[str]
    tried: int = SETTLED_TRIALS


@dataclass(frozen=True)
class Finished:
    """A model that was packaged and measured, with the operators that it runs.

    ``rest_us`` is the time of those that no ``Operator`` stands for.
    """

    model_sha256: str
    operators: tuple[GraphOperator, ...]
    latency_ms: float
    rest_us: float = 0.0


@dataclass(frozen=True)
class OperatorTime:
    """A predicted operator; ``known`` if the log had one of the same shape.

    ``weight_bytes`` is what it reads beside its input, in the way it is done.
    """

    name: str
    kind: str
    latency_us: float
    known: bool
    weight_bytes: float = 0.0


@dataclass(frozen=True)
class Parts:
    """What a model's operators take one after the other, and the weights that they read."""

    sum_us: float
    weight_mb: float

    @classmethod
    def of(cls, times: Iterable[OperatorTime], rest_us: float = 0.0) -> Parts:
        """Of these operators together, and what takes ``rest_us``."""
        taken = list(times)
        weight_bytes = math.fsum(one.weight_bytes for one in taken)
        return cls(math.fsum(one.latency_us for one in taken) + rest_us, weight_bytes / 1e6)

    def total_us(self, us_per_mb: float) -> float:
        """With so much for the weights, and the call of the package."""
        return CALL_US + self.sum_us + us_per_mb * self.weight_mb


@dataclass(frozen=True)
class Interval:
    """A latency and the bounds that hold it with the probability ``COVERAGE``; milliseconds."""

    latency_ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True)
class Calibration:
    """How a measured model compares with its operators one by one: logarithm of the ratio, the
    width of the next one's interval to each side, and how many finished models say so.

    ``us_per_mb`` is for the weights, which come from further away in a whole model than in the
    measurement of an operator that runs again and again.
    """

    log_ratio: float
    half_width: float
    models: int
    us_per_mb: float = 0.0

    def interval(self, parts: Parts) -> Interval:
        """The latency of a model with such operators."""
        latency_ms = parts.total_us(self.us_per_mb) * math.exp(self.log_ratio) / 1e3
        factor = math.exp(self.half_width)
        return Interval(latency_ms, latency_ms / factor, latency_ms * factor)


class OperatorTimes:
    """The times of operators of one kind of device, as its log knows or teaches them."""

    def __init__(self, known: Iterable[Known]) -> None:
        """Raises ValueError if nothing is known."""
        learnt = list(known)
        timed = [one.timed for one in learnt]
        self._model = LatencyModel(timed)
        self._seen: dict[tuple[object, ...], float] = {}
        self._settled: set[tuple[object, ...]] = set()
        for one in learnt:
            shape = one.timed.operator.shape
            self._seen[shape] = min(one.timed.latency_us, self._seen.get(shape, math.inf))
            if one.tried >= SETTLED_TRIALS:
                self._settled.add(shape)
        # Where none was ever tuned, none is chosen, and nothing says what it would take.
        self._winograd = any(one.operator.kind == PRODUCTS for one in timed)

    def of(self, operators: Sequence[GraphOperator]) -> list[OperatorTime]:
        """Each operator's, done in the way that is fastest."""
        ways = [[[one.operator], *(_winograd(one) if self._winograd else ())] for one in operators]
        steps = {step.shape: step for way in ways for each in way for step in each}
        unsure = [step for shape, step in steps.items() if shape not in self._settled]
        guesses = self._model.predict_us(unsure)
        taken = {**self._seen}
        for step, guess_us in zip(unsure, guesses, strict=True):
            taken[step.shape] = min(float(guess_us), self._seen.get(step.shape, math.inf))
        return [self._fastest(one, way, taken) for one, way in zip(operators, ways, strict=True)]

    def _fastest(
        self,
        one: GraphOperator,
        ways: Sequence[Sequence[Operator]],
        taken: Mapping[tuple[object, ...], float],
    ) -> OperatorTime:
        way = min(ways, key=lambda steps: sum(taken[step.shape] for step in steps))
        return OperatorTime(
            one.name,
            one.operator.kind,
            latency_us=sum(taken[step.shape] for step in way),
            known=all(step.shape in self._seen for step in way),
            weight_bytes=sum(step.second_bytes for step in way),
        )


def _winograd(one: GraphOperator) -> Iterable[list[Operator]]:
    """A convolution of 3 × 3 by Winograd's algorithm on tiles of 4 × 4 and 2 × 2 pixels: into
    tiles, products, back (docs/decisions/0021-winograd.md)."""
    direct = one.operator
    if one.out_hw is None or one.stride != 1 or direct.window != 9 or direct.depth < 9 * 8:
        return
    channels = direct.depth // 9
    pictures = direct.rows // math.prod(one.out_hw)
    for tile in (4, 2):
        positions = (tile + 2) ** 2
        tiles = pictures * math.prod(math.ceil(size / tile) for size in one.out_hw)
        tile_bytes = 4.0 * tiles * positions
        weight_bytes = 4.0 * positions * channels * direct.width
        there = Operator(ELEMENTWISE, in_bytes=direct.in_bytes, out_bytes=tile_bytes * channels)
        out_bytes = tile_bytes * direct.width
        back = Operator(
            ELEMENTWISE,
            in_bytes=out_bytes + direct.other_bytes,
            out_bytes=direct.out_bytes,
            steps=direct.steps,
            hard=direct.hard,
        )
        middle = products(tiles, positions, channels, direct.width, weight_bytes, out_bytes)
        yield [there, middle, back]


@dataclass(frozen=True)
class Predictor:
    """All that predicts for one kind of device; ``learnt`` counts the operators with a time."""

    times: OperatorTimes = field(repr=False)
    calibration: Calibration
    learnt: int

    @classmethod
    def train(cls, known: Sequence[Known], finished: Sequence[Finished]) -> Predictor:
        """From the operators and the models that a kind of device has measured; raises ValueError
        if there is no operator."""
        times = OperatorTimes(known)
        return cls(times, calibrate(held_out(known, finished)), len(known))


def held_out(known: Sequence[Known], finished: Sequence[Finished]) -> list[tuple[Parts, float]]:
    """Each finished model's operators as predicted by those who never saw it, and its latency in
    microseconds: what only it (or others of its fold) has is left out."""
    folds = min(len(finished), MAX_FOLDS)
    found: dict[int, tuple[Parts, float]] = {}
    for fold in range(folds):
        members = range(fold, len(finished), folds)
        hidden = {finished[i].model_sha256 for i in members}
        others = [one for one in known if not one.models <= hidden]
        times = OperatorTimes(others or known)  # all that is known may be of these models
        for i in members:
            parts = Parts.of(times.of(finished[i].operators), finished[i].rest_us)
            found[i] = parts, finished[i].latency_ms * 1e3
    return [found[i] for i in range(len(finished))]


def calibrate(measured: Sequence[tuple[Parts, float]]) -> Calibration:
    """What the models measured so far (with latencies in microseconds) say of the next one; the
    time for weights is the one that explains them best."""
    rates = _RATES_US_PER_MB if len(measured) >= _MODELS_FOR_RATE else (0.0,)
    return min(
        (_calibrate([(p.total_us(rate), us) for p, us in measured], rate) for rate in rates),
        key=lambda calibration: calibration.half_width,
    )


def _calibrate(pairs: Sequence[tuple[float, float]], us_per_mb: float) -> Calibration:
    """The next one's ratio: location and interval of Student's distribution that such few models
    and what is taken for granted before any give (Gelman et al., "Bayesian Data Analysis", 3.3)."""
    ratios = [math.log(measured_us / predicted_us) for predicted_us, measured_us in pairs]
    n, prior = len(ratios), _PRIOR_MODELS
    mean = statistics.fmean(ratios) if ratios else 0.0
    located = (prior * _PRIOR_LOG_RATIO + n * mean) / (prior + n)
    squares = math.fsum((ratio - mean) ** 2 for ratio in ratios)
    squares += prior * n / (prior + n) * (mean - _PRIOR_LOG_RATIO) ** 2
    freedom = _PRIOR_FREEDOM + n
    variance = (_PRIOR_FREEDOM * _PRIOR_SPREAD**2 + squares) / freedom * (1 + 1 / (prior + n))
    half_width = student(0.5 + COVERAGE / 2, freedom) * math.sqrt(variance)
    return Calibration(located, half_width, n, us_per_mb)


def student(probability: float, freedom: float) -> float:
    """Quantile of Student's distribution, by Cornish and Fisher's expansion around the normal one;
    off by less than 3 % from two degrees of freedom on at 95 %."""
    z = statistics.NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))
