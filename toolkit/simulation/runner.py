"""Runs states of the simulation: only the stages after the first change are computed again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import helper

from toolkit.base.types import Array
from toolkit.data.dataset import Batch
from toolkit.evaluation.answers import Answers
from toolkit.evaluation.metrics import Metric, answers_of
from toolkit.evaluation.outcome import BatchOutcome, Outcome, compare, summed, varying_shares
from toolkit.graph.light import LightModel
from toolkit.graph.sessions import Session, session
from toolkit.simulation.cut import FIXED, FLOAT, FULL, SCALE, SWITCH, SWITCHED, Piece
from toolkit.simulation.switches import Config

Tensors = dict[str, Array]
StateKey = tuple[Any, ...]
MetricMaker = Callable[[], Metric]
_MEMORY = 1 << 30
_JOINED_BYTES = 256 << 20
_HELD_BYTES = 32 << 20
_MIXED_STAGES = 3


class Pieces(Protocol):
    """The stages of a model, and any neighbouring ones as a model of their own."""

    stages: list[dict[str, tuple[str, ...]]]
    reads: list[set[str]]
    weight_bytes: int
    shares: bool

    def piece(self, first: int, kinds: Sequence[str]) -> Piece:
        """Stages from number ``first`` on, one for each of ``kinds``."""
        ...


class LoadedPiece:
    """A piece, ready to run for one state.

    Attributes:
        last: number of its last stage.
        piece: what it takes and gives.
        session: computes it.
        choices: its switches and scales.
    """

    def __init__(self, last: int, piece: Piece, session: Session, config: Config) -> None:
        self.last, self.piece, self.session = last, piece, session
        self.choices: Tensors = {SWITCH + switch: np.asarray(switch in config.on) for switch in piece.switches}
        for tensor, kind in piece.scales.items():
            value = config.scales.get(tensor, 1.0)
            self.choices[SCALE + tensor] = np.asarray(value, helper.tensor_dtype_to_np_dtype(kind))


class Runner:
    """The stages of one model with sessions, batches, and what is kept of states run before.

    Every session has one thread and batches run side by side, so that the numbers depend neither on the number of
    threads nor on that of processes.

    Args:
        pieces: the stages of the model; a ``Cutter``.
        base: the state with every group quantized.
        feeds: the samples.
        outputs: the model's outputs, in order.
        classes: outputs that hold scores of classes.
        metric: makes the user's metric; None without one.
        threads: batches computed at once; one a core where None.
        memory: bytes for what is kept at the cuts of the float state and of the base state.
        reference: gives the outputs that states are compared with, for a batch of inputs; the state with nothing
            quantized where None. For a model part of which is quantized already.
        answers: reads outputs as the task says; None without a task.
    """

    def __init__(
        self,
        pieces: Pieces,
        base: Config,
        feeds: Sequence[Batch],
        outputs: Sequence[str],
        classes: Sequence[str] = (),
        metric: MetricMaker | None = None,
        threads: int | None = None,
        memory: int = _MEMORY,
        reference: Callable[[dict[str, Array]], Tensors] | None = None,
        answers: Answers | None = None,
    ) -> None:
        self._pieces, self.feeds = pieces, list(feeds)
        self.outputs, self.classes = list(outputs), list(classes)
        self._base = base
        self.metric = metric
        self.memory, self.answers = memory, answers
        self._given = reference
        self.spent = 0.0
        self._threads = threads or os.cpu_count() or 1
        self._count = len(pieces.stages)
        # small models run as few pieces as can be: a call costs more than its layers
        self._joins = pieces.weight_bytes * self._count <= _JOINED_BYTES
        self._loaded: dict[tuple[int, tuple[str, ...]], tuple[Piece, Session]] = {}
        self._kept: dict[StateKey, list[Tensors]] = {}
        self._later = self._needed_later()
        self._places: set[int] | None = None
        self._off, self._full = self._signatures(Config()), self._signatures(base)
        self.float_seconds = 0.0
        self.float_outcome = self._start()
        self.full_outcome = self._run(base, keep=True)

    @property
    def inferences(self) -> float:
        """What all states so far cost, in runs of the float model over the same batches."""
        return self.spent / self.float_seconds if self.float_seconds else 0.0

    def run(self, config: Config) -> Outcome:
        """Run a state and compare its outputs with the float model's."""
        return self._run(config, keep=False)

    def outcome_of(self, model: Callable[[dict[str, Array]], Tensors]) -> Outcome:
        """The outcome of any other form of the model, run on the same batches: ``model`` gives outputs for inputs."""

        def one(index: int) -> tuple[BatchOutcome, Tensors]:
            outputs = model(dict(self.feeds[index].inputs))
            return self._compared(index, outputs), self._held(outputs)

        done = self._pool(one)
        return self._summed([part for part, _ in done], self._score([outputs for _, outputs in done]))

    def forget(self) -> None:
        """Give back the memory of sessions and kept states; what is run after this begins at the first stage."""
        self._kept.clear()
        self._loaded.clear()

    # ---------------------------------------------------------------- one state

    def _start(self) -> Outcome:
        plan = self._plan(Config(), self._off, 0, apart=True)
        whole = self._plan(Config(), self._off, 0, apart=False)
        # the first run of a session allocates; it would spoil the measure of what an inference costs
        self._pool(lambda index: self._advance(whole, dict(self.feeds[index].inputs), False))
        timed = self._pool(lambda index: self._advance(whole, dict(self.feeds[index].inputs), False))
        self.float_seconds = sum(seconds for *_, seconds in timed)
        states = self._pool(lambda index: self._advance(plan, dict(self.feeds[index].inputs), True))
        self._reference = [{name: state[name] for name in self.outputs} for state, *_ in states]
        if self._given is not None:
            self._reference = [self._given(dict(feed.inputs)) for feed in self.feeds]
        self._varying = varying_shares(self._reference)
        self._rounds = self._in_rounds()
        self._store(self._off, 0, [trail for _, trail, _ in states])
        return summed([BatchOutcome()] * len(states), self._score(self._reference))

    def _run(self, config: Config, keep: bool) -> Outcome:
        signatures = self._signatures(config)
        start = next((k for k in range(self._count, -1, -1) if signatures[:k] in self._kept), 0)
        plan = self._plan(config, signatures, start, apart=keep)

        def one(index: int) -> tuple[Tensors, list[Tensors], float]:
            state = {**self.feeds[index].inputs}
            if start:
                state.update(self._kept[signatures[:start]][index])
            state, trail, seconds = self._advance(plan, state, keep)
            return {name: state[name] for name in self.outputs}, trail, seconds

        def judged(index: int, outputs: Tensors) -> BatchOutcome:
            return self._compared(index, outputs)

        parts: list[BatchOutcome] = []
        held: list[Tensors] = []
        trails: list[list[Tensors]] = []
        for indices in self._rounds:
            # a comparison between two runs would drive the model out of the processor's caches
            done = self._pool(one, indices)
            made = [outputs for outputs, *_ in done]
            parts += self._pool(judged, indices, made)
            held += [self._held(outputs) for outputs in made]
            trails += [trail for _, trail, _ in done]
            self.spent += sum(seconds for *_, seconds in done)
        if keep:
            self._store(signatures, start, trails)
        return self._summed(parts, self._score(held))

    def _plan(self, config: Config, signatures: StateKey, start: int, apart: bool) -> list[LoadedPiece]:
        """The pieces that compute a state from stage ``start`` on."""
        kinds = [
            FLOAT if own == off else FULL if own == full else SWITCHED
            for own, off, full in zip(signatures, self._off, self._full)
        ]
        based = self._base.scales.items() >= {pair for _, scales in signatures[start:] for pair in scales}
        if not apart and self._joins and start < self._count:
            groups = [(start, self._shared(kinds, start, FIXED if based else SWITCHED))]
        else:
            groups = [(number, [kinds[number]]) for number in range(start, self._count)]
        return [LoadedPiece(first + len(of) - 1, *self._open(first, of), config) for first, of in groups]

    def _shared(self, kinds: list[str], start: int, switched: str) -> list[str]:
        """The kinds of one piece from stage ``start`` on that computes this state and others like it.

        One more session for every mixture would cost more than switches that are not needed: what comes before the
        last change is switched, unless it is all of a stage that has one layer.
        """
        stages = self._pieces.stages[start:]
        rest = [switched if kind == SWITCHED else kind for kind in kinds[start:]]
        tail = next((kind for kind, stage in zip(rest[::-1], stages[::-1]) if stage), FLOAT)
        # a stage without switches is the same in any kind
        rest = [kind if stage else tail for kind, stage in zip(rest, stages)]
        changed = max((number + 1 for number, kind in enumerate(rest) if kind != tail), default=0)
        layers = sum("#" not in switch for switch in stages[0])
        if changed <= 1 and layers == 1:
            return rest
        if changed > _MIXED_STAGES:
            return [switched] * len(rest)
        return [switched] * changed + [tail] * (len(rest) - changed)

    def _advance(self, plan: Sequence[LoadedPiece], state: Tensors, keep: bool) -> tuple[Tensors, list[Tensors], float]:
        trail: list[Tensors] = []
        seconds = 0.0
        for step in plan:
            feed = {**step.choices, **{name: state[name] for name in step.piece.inputs}}
            begin = time.thread_time()
            made = step.session.run(feed)
            seconds += time.thread_time() - begin
            state = {name: value for name, value in {**state, **made}.items() if name in self._later[step.last]}
            if keep:
                trail.append(dict(state))
        return state, trail, seconds

    def _pool(self, work: Callable[..., Any], *items: Sequence[Any]) -> list[Any]:
        """What ``work`` gives for each of the items, for each feed's index where there are none."""
        items = items or (range(len(self.feeds)),)
        count = min(self._threads, len(items[0]))
        if count == 1:
            return list(map(work, *items))
        with ThreadPoolExecutor(count, "simulation") as pool:
            return list(pool.map(work, *items))

    def _in_rounds(self) -> list[list[int]]:
        """The feeds in order, as many at a time as there are threads or as have outputs of 32 MB."""
        rounds: list[list[int]] = []
        held = 0
        for index, outputs in enumerate(self._reference):
            size = sum(value.nbytes for value in outputs.values())
            if not rounds or (held + size > _HELD_BYTES and len(rounds[-1]) >= self._threads):
                rounds.append([])
                held = 0
            rounds[-1].append(index)
            held += size
        return rounds

    def _held(self, outputs: Tensors) -> Tensors:
        """What is kept of a state's outputs until all batches are done: nothing where no metric asks for it."""
        return outputs if self.metric is not None else {}

    def _compared(self, index: int, outputs: Tensors) -> BatchOutcome:
        return compare(self._reference[index], outputs, self.classes, self.answers)

    def _summed(self, parts: Sequence[BatchOutcome], score: tuple[float | None, int]) -> Outcome:
        return summed(parts, score, self._varying, self.answers)

    def _score(self, outputs: Sequence[Tensors]) -> tuple[float | None, int]:
        if self.metric is None:
            return None, 0
        metric = self.metric()
        for feed, values in zip(self.feeds, outputs):
            plain = {n: np.asarray(v, np.float32) if v.dtype.kind == "f" else v for n, v in values.items()}
            metric.update(plain, feed.labels or {})
        return metric.value(), answers_of(metric)

    # ---------------------------------------------------------------- what is kept

    def _signatures(self, config: Config) -> StateKey:
        """For every stage what is on in it; two states with equal beginnings hand on equal tensors."""
        found = []
        for stage in self._pieces.stages:
            on = sorted(switch for switch in stage if switch in config.on)
            scales = sorted({(tensor, config.scales[tensor]) for switch in on for tensor in stage[switch]})
            found.append((tuple(on), tuple(scales)))
        return tuple(found)

    def _needed_later(self) -> list[set[str]]:
        """For every stage the tensors that later stages read or the model gives out."""
        needed, later = [set(self.outputs)], set(self.outputs)
        for reads in reversed(self._pieces.reads[1:]):
            later = later | reads
            needed.append(later)
        return needed[::-1]

    def _store(self, signatures: StateKey, start: int, trails: Sequence[Sequence[Tensors]]) -> None:
        given = set(self.feeds[0].inputs)
        own = [[{n: v for n, v in state.items() if n not in given} for state in trail] for trail in trails]
        if self._places is None:
            self._places = self._affordable(own)
        for position in range(len(own[0])):
            place = start + position + 1
            if place in self._places:
                self._kept[signatures[:place]] = [trail[position] for trail in own]

    def _affordable(self, trails: Sequence[Sequence[Tensors]]) -> set[int]:
        """The cuts at which states can be kept within the memory, evenly spread; two states are kept."""
        size = [2 * sum(v.nbytes for trail in trails for v in trail[k].values()) for k in range(self._count)]
        for step in range(1, len(size) + 1):
            places = {k + 1 for k in range(len(size) - 1, -1, -step)}
            if sum(size[k - 1] for k in places) <= self.memory:
                return places
        return {len(size)}

    def _open(self, first: int, kinds: Sequence[str]) -> tuple[Piece, Session]:
        key = first, tuple(kinds)
        if key not in self._loaded:
            piece = self._pieces.piece(first, kinds)
            # the session has what it needs of the weights
            light = replace(piece, model=LightModel(onnx.ModelProto()))
            self._loaded[key] = light, session(piece.model, threads=1, packed=not self._pieces.shares)
        return self._loaded[key]
