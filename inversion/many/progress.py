"""What is said while a run goes on, and at its end."""

import sys
import time
from collections import Counter

from .worker import Done

EVERY = 5.0  # seconds between two lines


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Says how far a run is.

    Arguments:
        total: pictures, of all runs on this output.
        before: those of them that were done when this one began.
    """

    def __init__(self, total: int, before: int) -> None:
        self.total, self.before, self.here, self.bad = total, before, 0, 0
        self.started: float | None = None
        self.last = 0.0

    def __call__(self, done: Done) -> None:
        now = time.monotonic()
        if self.started is None:  # models are loaded, the clock of the rate starts with the first shard
            self.started = now - done.seconds
        self.here, self.bad = self.here + done.pictures, self.bad + done.bad
        count = self.before + self.here
        if now - self.last < EVERY and count < self.total:
            return
        self.last = now
        rate = self.here / max(now - self.started, 1e-9)
        left = duration((self.total - count) / rate) if rate else "?"
        bad = f", {self.bad:,} bad" if self.bad else ""
        say(f"{count:,} of {self.total:,} pictures ({count / self.total:.0%}){bad}; {rate:.3g} a second; {left} left")


def duration(seconds: float) -> str:
    """In words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def closing(verdicts: Counter[str], problems: Counter[str]) -> list[str]:
    """The summary: rows by verdict, bad rows by problem."""
    good, bad = sum(verdicts.values()), sum(problems.values())
    lines = [f"{good + bad:,} rows: {good:,} good, {bad:,} bad."]
    lines += [f"{count:>8,}  {verdict}" for verdict, count in verdicts.most_common()]
    lines += [f"{count:>8,}  bad: {problem}" for problem, count in problems.most_common(10)]
    if len(problems) > 10:
        lines.append(f"{'':8}  and {len(problems) - 10} more kinds of bad rows; read the column `problem`")
    return lines
