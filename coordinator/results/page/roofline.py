"""The section on what the device could do at most, and what the operators do."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from coordinator.results.roofline import Standing, standings
from protos.records import DeviceLimits

from .roofline_picture import Point, Roof, roofline
from .scale import number
from .section import Column, ReportData, Section, Table, words

LABELLED = 5
"""Operators with most to win, which have their row's number in the picture."""


def roof(data: ReportData) -> Section | None:
    """Operators under their device's roof; None if the roof or every operator is not known."""
    limits = data.limits
    if limits is None:
        return None
    found = standings(data.job.tasks, limits, data.job.spec.cold_cache)
    if not found:
        return None
    return Section(
        "roofline",
        "Roofline",
        (_lead(found),),
        (_picture(found, limits),) if any(one.flops for one in found) else (),
        (_table(found), _limits_table(limits)),
        (_note(found, data.job.spec.cold_cache),),
    )


def _lead(found: Sequence[Standing]) -> str:
    now_us = sum(one.weight * one.latency_us for one in found)
    left_us = sum(one.left_us for one in found)
    first = found[0]
    share = 100 * first.left_us / left_us if left_us else 0.0
    return (
        f"The operators take {number(now_us / 1e3)} ms of an inference; at the device's roof they "
        f"would take {number((now_us - left_us) / 1e3)} ms. Of the {number(left_us / 1e3)} ms that "
        f"are left to win, {share:.0f} % are in {first.name}."
    )


def _note(found: Sequence[Standing], cold_cache: bool) -> str:
    limits = (
        "The limits were measured on the device with all its threads, the best of the samples: "
        "multiply-adds in registers, and an array read from memory and from the cache next to each "
        "core. An operator's bytes are those of its parameters, each counted once; its area is its "
        "share of the operators' time. "
    )
    if cold_cache:
        return limits + "Caches were cold, so the roof of every operator is that of memory."
    beyond = sum(not one.cached for one in found)
    return limits + (
        "Caches were warm: the roof of an operator whose bytes fit into the last-level cache is "
        f"that of the nearest cache, which is hard to reach; that of the others ({beyond}) is that "
        "of memory. An operator that uses one thread can't reach a roof that takes all of them."
    )


def _picture(found: Sequence[Standing], limits: DeviceLimits) -> Markup:
    total_us = sum(one.weight * one.latency_us for one in found)
    points = [
        Point(
            one.name,
            one.intensity,
            one.gflops,
            one.weight * one.latency_us / total_us,
            str(index) if index <= LABELLED else "",
        )
        for index, one in enumerate(found, 1)
        if one.flops
    ]
    roofs = [Roof("memory", limits.memory_gb_s, "memory")]
    if any(one.cached for one in found):
        roofs.append(Roof("cache", limits.cache_gb_s, "cache"))
    description = (
        f"Peak {limits.peak_gflops:.0f} GFLOP/s, memory {limits.memory_gb_s:.0f} GB/s; "
        f"{len(points)} operators, of which {found[0].name} has most to win"
    )
    title = "Operators under the roof of the device"
    return roofline("roofline-picture", title, description, limits.peak_gflops, roofs, points)


def _table(found: Sequence[Standing]) -> Table:
    columns = (
        Column("no."),
        words("operator"),
        Column("runs"),
        Column("MFLOP"),
        Column("KB"),
        Column("FLOP per byte"),
        Column("GFLOP/s"),
        Column("of the roof"),
        words("roof"),
        Column("left to win µs"),
    )
    rows = tuple(
        (
            str(index),
            one.name,
            str(one.weight),
            number(one.flops / 1e6),
            number(one.moved_bytes / 1e3),
            number(one.intensity),
            number(one.gflops),
            f"{100 * one.share_of_roof:.0f} %",
            "cache" if one.cached else "memory",
            f"{one.left_us:,.1f}",
        )
        for index, one in enumerate(found, 1)
    )
    caption = "Operators by what is left to win in an inference"
    return Table(caption, columns, rows, folded=len(rows) > 2 * LABELLED)


def _limits_table(limits: DeviceLimits) -> Table:
    rows = [
        ("peak of float32 multiply-adds", f"{number(limits.peak_gflops)} GFLOP/s"),
        ("reading memory", f"{number(limits.memory_gb_s)} GB/s"),
        ("reading the cache next to each core", f"{number(limits.cache_gb_s)} GB/s"),
        ("measured on", limits.device),
    ]
    if limits.cache_bytes:
        rows.insert(3, ("last-level cache", f"{limits.cache_bytes / 2**20:,.1f} MiB"))
    columns = (words("limit"), Column("how much"))
    return Table("What the device can do at most", columns, tuple(rows))
