"""Which quantized layers pay off in latency: a search over engines that are built and measured.

The engine without pairs is the reference, and the engine with all pairs is tried first. If the engine reports layer
times, a unit (a quantized node) whose kernels with their Q/DQ pairs and reformats take longer than its float kernels
stays float. All of these are tried at once, since builds are expensive; if the engine gets slower, then the worse half
of them, since the time of a unit depends on its neighbours' types. If one block runs several units and has no separate
times (Myelin runs a whole transformer this way), its units are tried by role: all units with one operator and weight
shape at once, the smallest weights first, then the halves of the roles that did not help. Every trial starts from the
best engine so far, so the set of float units only grows. If the engine with all pairs cannot be built, the first one is
an engine without the pairs of one role, trying each role in turn.

Layer times only propose; latency decides. A placement is accepted if the mean over the profiles of its latency relative
to float is below 1 by more than the noise, and no profile is slower than float by more than its own noise. The noise of
an engine's median is taken as half of the range from the 5th to the 95th percentile of single inferences: far more
than the median's own error, since clocks drift between builds, which the runs of one engine do not show. The best of
several measurements is too good on average, so a narrow win is built and measured once more, together with the
float engine. If nothing is accepted, the result is the engine without pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from toolkit.contract.bench import CLEARLY_FASTER, Latency
from toolkit.contract.findings import Code, Finding
from toolkit.search.trial_engines.ratios import ProfileWeights, Ratios, ratios
from toolkit.search.trial_engines.timed import PayoffResult, Trial, Unit, latencies

_LEAST_LOSS = 0.01
_CLOSE = 3.0
_REPEAT = 2


Measure = Callable[[frozenset[str], int], Trial | None]
"""Builds and measures the engine with the named units in float; None if it cannot be built.

The number is 0 for the first measurement and 1 for a repeated one.
"""
Prebuild = Callable[[Sequence[frozenset[str]]], None]
"""Receives the engines that will be measured next, each as the units that stay float in it."""


class PayoffSearch:
    """Builds and measures engines with ever fewer pairs, and finds the fastest that is surely faster than float.

    Args:
        units: the quantized nodes that may stay float, in the graph's order.
        measure: builds and measures an engine; raises if the engine without pairs cannot be built.
        builds: the largest number of engines to build, at least 2.
        weights: the weight of each profile; 1 for profiles that are not named.
        words: the quantized and the float type, for the reasons.
        on_trial: called after every engine; ``best`` is the fastest so far.
        lenient: whether an engine that is no slower than the float engine is enough, so that the search ends with the
            first one.
        trial: whether engines are trials, built in less time than the run's own, so that the accepted one must be
            measured again in its final form; if lenient, a clear win among trials is enough.
        prebuild: called with the engines that are measured next, in order, unless one of them is faster.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        measure: Measure,
        builds: int = 10,
        weights: Mapping[str, float] | None = None,
        words: tuple[str, str] = ("int8", "fp16"),
        on_trial: Callable[[PayoffSearch], None] | None = None,
        lenient: bool = False,
        trial: bool = False,
        prebuild: Prebuild | None = None,
    ) -> None:
        self.prebuild = prebuild or (lambda soon: None)
        self.units = {unit.name: unit for unit in units}
        self.everything = frozenset(self.units)
        self.measure, self.limit, self.words = measure, builds, words
        self.weights = ProfileWeights(weights or {})
        self.on_trial, self.lenient, self.trial = on_trial or (lambda search: None), lenient, trial
        self.trials: dict[frozenset[str], Trial] = {}
        self.failed: set[frozenset[str]] = set()
        self.repeated: set[frozenset[str]] = set()
        self.why: dict[frozenset[str], dict[str, Finding]] = {frozenset(): {}}
        self._built: set[tuple[str, int]] = set()
        self._failures = 0

    def run(self) -> PayoffResult:
        """Search until nothing more is proposed or all builds are used."""
        self.prebuild([self.everything, frozenset()])
        self._try(self.everything)
        if self._try(frozenset()) is None:
            self._without_a_role()
        self._by_time()
        self._by_role()
        return self._verdict()

    # ---------------------------------------------------------------- measuring

    @property
    def builds(self) -> int:
        """Engines built so far, including failed builds."""
        return len(self._built) + self._failures

    def _left(self) -> int:
        """Builds left for trials: two are reserved to measure a narrow win again."""
        if self.lenient:
            held_back = _REPEAT if self.trial else 0
            return 0 if any(map(self.will_do, self._quantized())) else self.limit - self.builds - held_back
        return self.limit - self.builds - (_REPEAT if self.limit > 2 + _REPEAT else 0)

    def _try(self, kept: frozenset[str]) -> Trial | None:
        """Build and measure the engine with these units in float, unless that was done before; None if it failed."""
        if kept in self.trials or kept in self.failed:
            return self.trials.get(kept)
        trial = self.measure(kept, 0)
        if trial is None:
            self._failures += 1
            self.failed.add(kept)
            return None
        self._built.add((trial.key, 0))
        self.trials[kept] = trial
        self.on_trial(self)
        return trial

    def _repeat(self, trial: Trial) -> None:
        """Measure an engine again: mean of the medians, with a spread that includes both; a trial's are replaced."""
        again = self.measure(trial.kept, 1)
        self.repeated.add(trial.kept)
        if again is None:
            self._failures += 1
            return
        self._built.add((again.key, 1))
        if self.trial:
            trial.latency, trial.turns = again.latency, again.turns
            return
        for profile, (ratio, noise) in again.turns.items():
            first_ratio, first_noise = trial.turns.get(profile, (ratio, noise))
            spread = max(noise, first_noise, abs(ratio - first_ratio) / 2)
            trial.turns[profile] = (ratio + first_ratio) / 2, spread
        for profile, second in again.latency.items():
            first = trial.latency[profile]
            noise = max(first.noise, second.noise, abs(first.ms - second.ms) / 2)
            middle = (first.ms + second.ms) / 2
            trial.latency[profile] = Latency(middle, middle - noise, middle + noise)

    # ---------------------------------------------------------------- comparing

    @property
    def without(self) -> Trial:
        """The engine without pairs."""
        return self.trials[self.everything]

    @property
    def _each_counts(self) -> bool:
        """Whether every profile counts by itself: an engine may be slower in none, and need not be faster in any."""
        return self.lenient and not self.weights

    def ratios(self, trial: Trial) -> Ratios:
        """For each profile the latency relative to the float engine's, and its noise."""
        return ratios(trial.latency, self.without.latency, trial.turns)

    def score(self, trial: Trial) -> float:
        """Mean over the profiles of latency relative to float, below 1 if faster; the worst if every profile counts."""
        return self._scored(trial)[0]

    def noise(self, trial: Trial) -> float:
        """The noise of ``score``."""
        return self._scored(trial)[1]

    def _scored(self, trial: Trial) -> tuple[float, float]:
        """``score`` and ``noise``."""
        found = self.ratios(trial)
        return max(found.values()) if self._each_counts else self.weights.score(found)

    @property
    def best(self) -> Trial:
        """The fastest engine so far, with pairs or without."""
        return min(self.trials.values(), key=self.score)

    def _quantized(self) -> list[Trial]:
        """Engines with pairs, the fastest first; among equals the one with the most pairs."""
        found = [t for kept, t in self.trials.items() if kept != self.everything and t.key != self.without.key]
        return sorted(found, key=lambda t: (self.score(t), len(t.kept), sorted(t.kept)))

    def faster(self, trial: Trial) -> bool:
        """Whether an engine is faster than the one without pairs by more than the noise, and slower in no profile."""
        return self.weights.faster(self.ratios(trial))

    def will_do(self, trial: Trial) -> bool:
        """Whether an engine is acceptable: faster, or if lenient, not slower by more than the noise.

        If lenient, no profile may be slower or, with profile weights, only their mean must not be.
        """
        if not self.lenient:
            return self.faster(trial)
        return not self._slower(trial) if self._each_counts else self.score(trial) <= 1 + self.noise(trial)

    def _slower(self, trial: Trial) -> list[str]:
        """The profiles with a weight in which an engine is slower than without pairs by more than the noise."""
        return self.weights.slower(self.ratios(trial))

    # ---------------------------------------------------------------- by layer times

    def _by_time(self) -> None:
        """Keep units in float that are slower by layer times, as long as the engine gets faster."""
        current = next(iter(self._quantized()), None)
        while current is not None and self._left() > 0:
            slow = self._slow(current)
            better = None
            count = len(slow)
            halves = [slow[: count >> times] for times in range(count.bit_length())]
            self._soon(current, [[name for names, _ in part for name in names] for part in halves])
            while count and better is None and self._left() > 0:
                why = self._explain(slow[:count], current)
                tried = self._further(current, why)
                if tried is not None and self.score(tried) < self.score(current):
                    better = tried
                count //= 2
            current = better

    def _further(self, trial: Trial, why: Mapping[str, Finding]) -> Trial | None:
        """The engine with these units in float as well, for these reasons; None if no pair is left or it fails."""
        kept = trial.kept | frozenset(why)
        if kept == self.everything:
            return None
        self.why.setdefault(kept, {**self.why[trial.kept], **why})
        return self._try(kept)

    def _slow(self, trial: Trial) -> list[tuple[list[str], float]]:
        """Sets of units that take longer than their float layers, the largest loss first."""
        found: list[tuple[list[str], float]] = []
        # a gain in one profile does not make up for a loss in another
        counted = self._slower(trial) if self._each_counts else list(self.without.latency)
        for names in self._clusters(trial):
            open_names = [name for name in names if name not in trial.kept]
            here, there = self._time(trial, names), self._time(self.without, names)
            if not open_names or not here or not there:
                continue
            base = self.weights.mean({p: there[p] / self.without.latency[p].ms for p in counted})
            loss = self.weights.mean({p: here[p] / self.without.latency[p].ms for p in counted}) - base
            if loss > _LEAST_LOSS * base:
                found.append((open_names, loss))
        return sorted(found, key=lambda entry: (-entry[1], entry[0]))

    def _clusters(self, trial: Trial) -> list[list[str]]:
        """The units, grouped if one engine layer runs several of them in this engine or in the float engine."""
        sets: list[set[str]] = []
        for tie in (*trial.ties, *self.without.ties):
            joined = {name for name in tie if name in self.units}
            for other in [s for s in sets if s & joined]:
                joined |= other
                sets.remove(other)
            sets.append(joined)
        tied = set().union(*sets)
        return [sorted(s) for s in sets if s] + [[name] for name in self.units if name not in tied]

    def _time(self, trial: Trial, names: Sequence[str]) -> dict[str, float]:
        """For each profile the milliseconds of some units together; empty if the engine reports no layer times.

        A unit without a time has no separate layer: it is fused into another's kernel and takes no time of its own.
        """
        if not trial.ms:
            return {}
        return {p: sum(trial.ms.get(name, {}).get(p, 0.0) for name in names) for p in self.without.latency}

    def _explain(self, slow: Iterable[tuple[list[str], float]], trial: Trial) -> dict[str, Finding]:
        """For each unit of these sets, the finding that its set is slower quantized, with both times."""
        found: dict[str, Finding] = {}
        quantized, plain = self.words
        for names, _ in slow:
            here, there = self._time(trial, names), self._time(self.without, names)
            times = {"profiles": list(here), "ms": list(here.values()), "without_ms": [there[p] for p in here]}
            why = Code.LAYERS_SLOWER(quantized=quantized, plain=plain, layers=len(names), **times)
            found.update(dict.fromkeys(names, why))
        return found

    # ---------------------------------------------------------------- by role

    def _by_role(self) -> None:
        """Keep units without separate times in float, by role and then by halves of a role."""
        best = next(iter(self._quantized()), None)
        if best is None:
            return
        hidden = {name for names in self._clusters(best) if len(names) > 1 for name in names}
        if not best.ms or not self.without.ms or self.lenient:
            # if lenient, units whose layer times do not explain the loss are tried by role too
            hidden = set(self.units)
        rest: list[tuple[str, list[str]]] = []
        roles = self._roles(hidden - best.kept)
        for number, (role, names) in enumerate(roles.items()):
            self._soon(best, list(roles.values())[number:])
            after = self._without_pairs(best, names, role, len(names))
            if after is None:
                rest.append((role, names))
            best = after or best
        for role, names in rest:
            for half in (names[: len(names) // 2], names[len(names) // 2 :]):
                if len(names) > 1:
                    best = self._without_pairs(best, half, role, len(names)) or best

    def _soon(self, best: Trial, floats: Sequence[Sequence[str]]) -> None:
        """Announce the engines that keep one of these sets in float each, up to the number of builds left."""
        sets = dict.fromkeys(best.kept | frozenset(names) for names in floats)
        known = {self.everything, *self.trials, *self.failed}
        self.prebuild([kept for kept in sets if kept not in known][: max(self._left(), 0)])

    def _roles(self, names: Collection[str]) -> dict[str, list[str]]:
        """These units by role, the smallest weights first; within a role in the graph's order."""
        roles: dict[str, list[str]] = {}
        for unit in sorted(self.units.values(), key=lambda unit: unit.size):
            if unit.name in names:
                roles.setdefault(unit.role, [])
        return {role: [n for n in self.units if n in names and self.units[n].role == role] for role in roles}

    def _without_a_role(self) -> None:
        """If no engine with all pairs can be built, try engines without the pairs of one role until one succeeds."""
        for role, names in self._roles(self.everything).items():
            kept = frozenset(names)
            if self._left() <= 0 or kept == self.everything:
                return
            self.why[kept] = dict.fromkeys(names, Code.ROLE_NOT_BUILT(role=role))
            if self._try(kept) is not None:
                return

    def _without_pairs(self, best: Trial, names: Sequence[str], role: str, total: int) -> Trial | None:
        """The engine without the pairs of ``names``, out of ``total`` units of the role; None if it is not faster."""
        if self._left() <= 0:
            return None
        tried = self._further(best, dict.fromkeys(names, Code.TRIAL()))
        if tried is None:
            return None
        why = Code.ROLE_SLOWER(
            layers=len(names), total=total, role=role, quantized=self.words[0], **latencies(best, tried)
        )
        self.why[tried.kept].update(dict.fromkeys(names, why))
        return tried if self.score(tried) < self.score(best) else None

    # ---------------------------------------------------------------- the verdict

    def _verdict(self) -> PayoffResult:
        """The result: the accepted engine or else the one without pairs, and the reasons."""
        chosen = self._confirmed()
        best = chosen or next(iter(self._quantized()), None)
        score, noise = (self.score(best), self.noise(best)) if best is not None else (math.inf, 0.0)
        if chosen is not None:
            return PayoffResult(chosen.kept, self.why[chosen.kept], chosen, self.without, score, noise, self.builds)
        quantized, plain = self.words
        why = Code.NO_ENGINE_BUILT(quantized=quantized, tried=len(self.failed))
        if best is not None:
            code = Code.EVERY_ENGINE_SLOWER if self.lenient else Code.NO_ENGINE_FASTER
            why = code(quantized=quantized, plain=plain, **latencies(best, self.without), ratio=score, noise=noise)
        return PayoffResult(
            self.everything, dict.fromkeys(self.units, why), best, self.without, score, noise, self.builds
        )

    def _confirmed(self) -> Trial | None:
        """The fastest acceptable engine with pairs, measured again if that may change the decision."""
        while True:
            chosen = next((trial for trial in self._quantized() if self.will_do(trial)), None)
            if chosen is None or chosen.kept in self.repeated or (self.lenient and not self.trial):
                return chosen
            # the fastest engine is measured in its final form; if lenient, a clear win among trials is enough
            bar = 1.0 if not self.trial else CLEARLY_FASTER if self.lenient else 0.0
            if self.score(chosen) + _CLOSE * self.noise(chosen) < bar:
                return chosen
            # an engine measured in turn with the float engine needs no second float engine
            both = (chosen,) if chosen.turns and not self.trial else (self.without, chosen)
            again = [t for t in both if t.kept not in self.repeated]
            if self.builds + len(again) > self.limit:
                # a trial says nothing about the engine in its final form
                return None if self.trial else chosen
            for trial in again:
                self._repeat(trial)
