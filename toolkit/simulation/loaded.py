"""The pieces of a simulation that are loaded into onnxruntime: as many as the memory allows, the last used first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from threading import RLock
from typing import Protocol

import numpy as np
import onnx
from onnx import helper

from toolkit.base.types import Array
from toolkit.graph.light import LightModel
from toolkit.graph.sessions import Session, session
from toolkit.simulation.cut import SCALE, SWITCH, Piece
from toolkit.simulation.switches import Config

_COPIES = 3
"""What a session takes, in sizes of its model: the weights, those as kernels like them, and the message at first."""


class Pieces(Protocol):
    """The stages of a model, and any neighbouring ones as a model of their own."""

    stages: list[dict[str, tuple[str, ...]]]
    reads: list[set[str]]
    weight_bytes: int
    shares: bool
    input_elements: int

    def piece(self, first: int, kinds: Sequence[str]) -> Piece:
        """Stages from number ``first`` on, one for each of ``kinds``."""
        ...

    def cost(self, stage: int, config: Config) -> tuple[float, float]:
        """What a stage of a state costs for each sample of the usual size, and for each run."""
        ...


def cost_of(pieces: Pieces, stages: Iterable[int], config: Config, elements: float, batches: int) -> float:
    """What stages of a state cost by the graph's arithmetic, in multiply-accumulates.

    Args:
        pieces: the stages of the model.
        stages: their numbers.
        config: the state.
        elements: of all inputs of all samples.
        batches: how many the samples come in.
    """
    costs = [pieces.cost(stage, config) for stage in stages]
    samples = elements / max(pieces.input_elements, 1)
    return sum(work for work, _ in costs) * samples + sum(calls for _, calls in costs) * batches


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
        self.choices: dict[str, Array] = {SWITCH + switch: np.asarray(switch in config.on) for switch in piece.switches}
        for tensor, kind in piece.scales.items():
            value = config.scales.get(tensor, 1.0)
            self.choices[SCALE + tensor] = np.asarray(value, helper.tensor_dtype_to_np_dtype(kind))


class LoadedPieces:
    """Sessions of pieces.

    Args:
        pieces: the stages of the model; a ``Cutter``.
        memory: bytes that their weights may take; the one in use is there in any case.
    """

    def __init__(self, pieces: Pieces, memory: int) -> None:
        self._pieces, self._memory = pieces, memory
        self._known: OrderedDict[tuple[int, tuple[str, ...]], tuple[Piece, Session, int]] = OrderedDict()
        self._lock = RLock()

    def __len__(self) -> int:
        """How many are loaded."""
        return len(self._known)

    def open(self, first: int, kinds: Sequence[str]) -> tuple[Piece, Session]:
        """The piece of these stages with its session; the longest unused ones go where the memory asks for it."""
        key = first, tuple(kinds)
        with self._lock:
            if key not in self._known:
                piece = self._pieces.piece(first, kinds)
                size = piece.model.message_bytes * _COPIES
                while self._known and self._held + size > self._memory:
                    self._known.popitem(last=False)
                # the session has what it needs of the weights; memory that it kept would grow with every input shape
                loaded = session(piece.model, threads=1, packed=not self._pieces.shares, arena=False)
                self._known[key] = replace(piece, model=LightModel(onnx.ModelProto())), loaded, size
            self._known.move_to_end(key)
            return self._known[key][:2]

    @property
    def _held(self) -> int:
        return sum(size for *_, size in self._known.values())

    def forget(self) -> None:
        """Give back the memory of all sessions."""
        with self._lock:
            self._known.clear()
