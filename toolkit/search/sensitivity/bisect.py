"""The smallest set of layers to keep float so that a check passes: delta debugging over all subsets.

A. Zeller, R. Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE TSE 28(2), 2002: the ddmin
algorithm. The result is 1-minimal: if any single one of its layers is quantized, the check fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.base.errors import QtoolError
from toolkit.base.files import sha256_json
from toolkit.base.log import Log
from toolkit.base.needs import Needs
from toolkit.base.progress import Progress, silent
from toolkit.base.reads import needs_now
from toolkit.contract.findings import Finding
from toolkit.search.sensitivity.stale_measurements import stale_measurements


@dataclass(frozen=True)
class Answer:
    """A check's answer, with the reason if the check gives one."""

    passed: bool
    reason: str = ""


Check = Callable[[frozenset[str]], "bool | Answer"]


@dataclass(frozen=True)
class CheckResult:
    """One answer of the check: the layers kept float, whether it passed, and the reason if it did not and gave one."""

    kept: tuple[str, ...]
    passed: bool
    reason: str = ""


@dataclass
class Bisection:
    """The result of a bisection.

    Attributes:
        kept: the layers to keep float, in the graph's order; empty if the check passes with all layers quantized.
        verdicts: all answers, in order.
        checks: how often the check was run now; the other answers are from the log.
        notes: findings about the checks for the user.
    """

    kept: list[str]
    verdicts: list[CheckResult] = field(default_factory=list)
    checks: int = 0
    notes: list[Finding] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {
            "kept": self.kept,
            "checks": self.checks,
            "verdicts": [{"kept": list(v.kept), "passed": v.passed, "reason": v.reason} for v in self.verdicts],
            "notes": [note.to_json() for note in self.notes],
        }


def bisect(
    names: Sequence[str],
    check: Check,
    *,
    log: Path | None = None,
    fingerprint: str = "",
    repeats: int = 2,
    progress: Progress | None = None,
    content: Callable[[frozenset[str]], str] | None = None,
    likely: Sequence[str] = (),
    needs: Callable[[], Needs | None] = needs_now,
) -> Bisection:
    """Find a smallest set of layers that must stay float for the check to pass.

    Args:
        names: all layers that can be quantized, in the graph's order.
        check: returns whether the model passes with these layers kept float and all others quantized.
        log: a JSON-lines file of verdicts; the check is not run again for verdicts with the same ``fingerprint``.
        fingerprint: identifies everything that the verdicts depend on.
        repeats: how often the check is run with every layer quantized, with every layer float, and on the answer; if
            its answers differ, it is flaky.
        progress: called with the activity, how much of it is done, and the total.
        content: returns a digest of what is checked with these layers kept float; sets with the same digest share
            verdicts. None: the layers' names are enough.
        likely: the layers ranked by sensitivity, the most harmful first. The first n of them that pass are found by
            doubling and bisection, and the answer is searched for among these. This gives smaller answers: otherwise
            many layers with a small effect may replace one with a large effect.
        needs: returns what the check has read so far; verdicts of a check that reads something else are not reused.

    Raises:
        QtoolError: the check fails with all layers float, or gives different answers for the same model.
    """
    asker = _Asker(list(names), check, Log(log, fingerprint, needs), max(1, repeats), progress, content)
    everything = frozenset(names)
    notes = stale_measurements(asker.log)
    if asker.surely(frozenset(), "everything quantized"):
        return Bisection([], asker.verdicts, asker.checks, notes)
    if not asker.surely(everything, "every layer float"):
        why = asker.verdicts[-1].reason
        raise QtoolError(
            "the check fails even with every layer in float" + (f": {why}" if why else ""),
            remedy="quantization is not the cause: run the check on the float model; "
            "for engines the float type may be: see --precision and [engine] rest",
        )
    first = _first_that_pass([name for name in likely if name in everything], asker.ask)
    kept = _minimal(first or list(names), asker.ask)
    asker.surely(frozenset(kept), "the answer")
    order = {name: place for place, name in enumerate(names)}
    return Bisection(sorted(kept, key=order.__getitem__), asker.verdicts, asker.checks, notes)


class _Asker:
    """Runs the check and records its verdicts in a log."""

    def __init__(
        self, names: list[str], check: Check, log: Log, repeats: int, progress: Progress | None,
        content: Callable[[frozenset[str]], str] | None,
    ) -> None:  # fmt: skip
        self.names, self.check, self.log, self.repeats, self.content = names, check, log, repeats, content
        self.progress = progress or silent
        self.verdicts: list[CheckResult] = []
        self.checks = 0

    def ask(self, kept: frozenset[str], turn: int = 0) -> bool:
        """One verdict, from the log if it is there."""
        key = sha256_json([sorted(kept) if self.content is None else self.content(kept), turn])
        line = self.log.get(key)
        if line is None:
            said = self.check(kept)
            answer = said if isinstance(said, Answer) else Answer(bool(said))
            self.checks += 1
            self.log.add(key, {"kept": sorted(kept), "turn": turn, "passed": answer.passed, "reason": answer.reason})
        else:
            answer = Answer(bool(line["passed"]), line["reason"])
        self.verdicts.append(CheckResult(tuple(sorted(kept)), answer.passed, answer.reason))
        self.progress("bisect", len(self.verdicts), len(self.names))
        return answer.passed

    def surely(self, kept: frozenset[str], words: str) -> bool:
        """A verdict confirmed by ``repeats`` runs of the check.

        Raises:
            QtoolError: the answers differ.
        """
        answers = [self.ask(kept, turn) for turn in range(self.repeats)]
        if len(set(answers)) > 1:
            told = ", ".join("pass" if answer else "fail" for answer in answers)
            raise QtoolError(
                f"the check is flaky: with {words} it answers {told}",
                remedy="make the check deterministic (fixed samples and seeds, a threshold further from the values)",
            )
        return answers[0]


def _first_that_pass(ranked: list[str], passes: Callable[[frozenset[str]], bool]) -> list[str]:
    """The first n of ``ranked`` for a small n at which they pass; empty if no n below all of them was found."""
    below, above = 0, 1
    while above < len(ranked) and not passes(frozenset(ranked[:above])):
        below, above = above, 2 * above
    if above >= len(ranked):
        above = len(ranked)
        if below == 0:
            return []
    while above - below > 1:
        middle = (below + above) // 2
        if passes(frozenset(ranked[:middle])):
            above = middle
        else:
            below = middle
    return ranked[:above] if above < len(ranked) else []


def _minimal(items: list[str], passes: Callable[[frozenset[str]], bool]) -> list[str]:
    """Ddmin: a subset of ``items`` that passes and from which no single item can be left out; all items must pass."""
    parts = 2
    while len(items) >= 2:
        size = -(-len(items) // parts)
        blocks = [items[i : i + size] for i in range(0, len(items), size)]
        smaller = next((block for block in blocks if passes(frozenset(block))), None)
        if smaller is not None:
            items, parts = smaller, 2
            continue
        rests = ([x for x in items if x not in block] for block in blocks) if len(blocks) > 2 else iter(())
        rest = next((rest for rest in rests if passes(frozenset(rest))), None)
        if rest is not None:
            items, parts = rest, max(parts - 1, 2)
            continue
        if size == 1:
            break
        parts = min(len(items), 2 * parts)
    return items
