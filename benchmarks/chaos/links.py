"""Network namespaces, and links into them that can be cut, delayed and made lossy.

A link is two TUN devices, one on each side, and a thread here that carries the packets between
them. So it does what ``tc qdisc … netem`` does and needs no kernel module for it: a packet waits,
or is lost, or all are, without either side being told. TCP and TLS above it are the real ones.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x1, 0x1000
MTU_BYTES = 1500
QUEUED_PACKETS = 2000
"""More than these are lost, as in any router."""


class NoNamespaces(Exception):
    """This machine, or this user, can't make them; the message says what was refused."""


@dataclass(frozen=True)
class Quality:
    """What a link does to a packet: loses it with this chance, or delivers it this much later."""

    loss: float = 0.0
    delay_s: float = 0.0


GOOD, CUT = Quality(), Quality(loss=1.0)


@dataclass
class Link:
    """A namespace and the link to it. ``host`` and ``inside`` are the addresses of its two ends;
    ``quality`` may be changed at any time."""

    namespace: str
    host: str
    inside: str
    ends: tuple[int, int]
    quality: Quality = GOOD

    def command(self, command: Sequence[str]) -> list[str]:
        """How to start a command inside; the process is the command's own."""
        return ["ip", "netns", "exec", self.namespace, *command]


@contextlib.contextmanager
def links(count: int, prefix: str, seed: int = 0) -> Iterator[list[Link]]:
    """This many namespaces with a link to each; they are removed at the end.

    ``prefix`` begins the names of namespaces and devices, and must be no other run's. Addresses are
    of 198.18.0.0/15, which is nobody's (RFC 2544). Raises NoNamespaces.
    """
    made: list[Link] = []
    try:
        for number in range(count):
            made.append(_link(f"{prefix}{number}", 4 * number, os.getpid()))
        with _carried(made, seed):
            yield made
    finally:
        for link in made:
            for end in link.ends:
                os.close(end)  # its device goes with it
        for number in range(count):
            subprocess.run(
                ["ip", "netns", "del", f"{prefix}{number}"], capture_output=True, check=False
            )


def _link(name: str, offset: int, process: int) -> Link:
    subnet = f"198.18.{process % 250}"
    host, inside = f"{subnet}.{offset + 1}", f"{subnet}.{offset + 2}"
    _ip("netns", "add", name)
    ends = _tun(f"{name}h"), _tun(f"{name}n")
    _ip("address", "add", f"{host}/30", "dev", f"{name}h")
    _ip("link", "set", f"{name}h", "mtu", str(MTU_BYTES), "up")
    _ip("link", "set", f"{name}n", "netns", name)  # its packets still come to us
    within = ("-n", name)
    _ip(*within, "address", "add", f"{inside}/30", "dev", f"{name}n")
    _ip(*within, "link", "set", f"{name}n", "mtu", str(MTU_BYTES), "up")
    _ip(*within, "link", "set", "lo", "up")
    return Link(name, host, inside, ends)


def _ip(*arguments: str) -> None:
    try:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NoNamespaces("there is no command `ip`: install iproute2") from error
    if done.returncode:
        raise NoNamespaces(f"`ip {' '.join(arguments)}`: {done.stderr.strip()}")


def _tun(name: str) -> int:
    """A new TUN device; it lives as long as the descriptor."""
    try:
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        raise NoNamespaces(f"no TUN device can be made: {error}") from error
    return end


@contextlib.contextmanager
def _carried(made: Sequence[Link], seed: int) -> Iterator[None]:
    """Carry the links' packets, in a thread, while the block runs."""
    stop_reader, stop_writer = os.pipe()
    thread = threading.Thread(target=_carry, args=(made, random.Random(seed), stop_reader))
    thread.start()
    try:
        yield
    finally:
        os.close(stop_writer)
        thread.join()
        os.close(stop_reader)


def _carry(made: Sequence[Link], chance: random.Random, stop: int) -> None:
    routes = {}
    poll = select.poll()
    poll.register(stop, select.POLLIN)
    for link in made:
        for end, other in (link.ends, link.ends[::-1]):
            routes[end] = (link, other)
            poll.register(end, select.POLLIN)
    waiting: list[tuple[float, int, int, bytes]] = []
    numbers = itertools.count()
    while True:
        wait_ms = max(0.0, (waiting[0][0] - time.monotonic()) * 1e3) if waiting else None
        ready = {end for end, _event in poll.poll(wait_ms)}
        if stop in ready:
            return
        now = time.monotonic()
        for end in ready:
            link, other = routes[end]
            quality = link.quality
            for packet in _packets(end):
                lost = chance.random() < quality.loss or len(waiting) >= QUEUED_PACKETS
                if not lost:
                    heapq.heappush(waiting, (now + quality.delay_s, next(numbers), other, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _due, _number, other, packet = heapq.heappop(waiting)
            with contextlib.suppress(OSError):  # that side is down, or full: the packet is lost
                os.write(other, packet)


def _packets(end: int) -> Iterator[bytes]:
    """What waits at an end; at most some, so that every link has its turn."""
    for _ in range(64):
        try:
            yield os.read(end, 1 << 16)
        except OSError:  # nothing more now, or its device is down
            return
