"""What was sent, how it was answered, and whether anything came of it that must not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

TAKEN = "taken"
"""A message after which the stream went on, or a call that was answered."""

ENDED = "ended the session"
"""A message after which an agent hung up, to dial in anew."""

CLOSED = "closed while we wrote"
"""The coordinator ended the stream, and its status was lost on this side."""

SENT = "sent"
"""A piece of an artifact: what the agent makes of the whole, its lease's end tells."""

CLEAR = frozenset(
    (
        *(TAKEN, "INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND", "PERMISSION_DENIED"),
        *("RESOURCE_EXHAUSTED", "ABORTED", ENDED, CLOSED, SENT),
    )
)
"""Answers that say what was wrong. What else a peer may end a call with says that it is broken."""


@dataclass
class Ledger:
    """Counts of mutated messages by where they went and what came back.

    ``given`` are the lease and candidate of every trial that a fake agent was leased,
    ``acknowledged`` those of every acknowledgement that one got.
    """

    answers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    unclear: list[str] = field(default_factory=list)
    given: set[tuple[str, str]] = field(default_factory=set)
    acknowledged: set[tuple[str, str]] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)

    @property
    def messages(self) -> int:
        """How many mutated messages were sent and answered."""
        return sum(sum(counts.values()) for counts in self.answers.values())

    def note(self, kind: str, answer: str, details: str = "") -> None:
        """A mutated message was answered; ``answer`` is TAKEN or a status code's name."""
        self.answers[kind][answer] += 1
        if answer not in CLEAR and len(self.unclear) < 1000:
            self.unclear.append(f"{kind}: {answer}: {details[:300]}")

    def violation(self, what: str) -> None:
        """Something that must not be."""
        self.violations.append(what)

    def rows(self) -> Iterable[tuple[object, ...]]:
        """For a table: where, how many, and the answers."""
        for kind, counts in sorted(self.answers.items()):
            said = ", ".join(f"{count} {answer}" for answer, count in counts.most_common())
            yield kind, sum(counts.values()), said
