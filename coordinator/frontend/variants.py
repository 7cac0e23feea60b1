"""Other algorithms for a model's convolutions, and what each changes about its kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from protos.records import Task

from .legalization import Algorithms, choices
from .tasks import extract_tasks


@dataclass(frozen=True)
class Variant:
    """Another algorithm for all convolutions of one kind, F(m×m, 3×3) with ``tile`` for m, or one
    kernel for all chains of one kind, ``CHAINED``.

    ``change`` says how many calls of each workload the model has more with it than with direct
    convolutions, or fewer.
    """

    convolution: str
    tile: int
    change: Mapping[str, int]


def find_variants(
    prepared: Any, tasks: Sequence[Task], lower: Callable[[Algorithms], Any]
) -> tuple[list[Variant], tuple[Task, ...]]:
    """The variants of a module that is not lowered yet, and the tasks that it has with them only.

    ``tasks`` are those of the module with direct convolutions; ``lower`` lowers it with others.
    """
    own = {task.workload_key: task.weight for task in tasks}
    found: list[Variant] = []
    made: dict[str, Task] = {}
    for key, m in choices(prepared):
        change = Counter({key: -weight for key, weight in own.items()})
        for task in extract_tasks(lower({key: m}), (*tasks, *made.values())):
            change[task.workload_key] += task.weight
            if task.workload_key not in own:
                made[task.workload_key] = replace(task, weight=0)
        found.append(Variant(key, m, {key: n for key, n in change.items() if n}))
    return found, tuple(made.values())


def of_one_kind(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """Those that several parts have of the same convolution as one."""
    found: dict[tuple[str, int], Variant] = {}
    for variant in variants:
        kind = variant.convolution, variant.tile
        change = Counter(found[kind].change if kind in found else {})
        change.update(variant.change)
        found[kind] = replace(variant, change=dict(change))
    return tuple(found.values())
