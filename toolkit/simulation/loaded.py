"""The onnxruntime sessions of a simulation's pieces: as many as the memory allows, the most recently used ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from toolkit.base.types import Array
from toolkit.graph.large_models.memory import loaded
from toolkit.graph.large_models.partitions import resident_bytes
from toolkit.graph.large_models.run_memory import run_pool
from toolkit.graph.proto.light import LightModel
from toolkit.graph.sessions.ort_session import Arena
from toolkit.graph.sessions.session import Session, session
from toolkit.simulation.cut import Cutter, Piece
from toolkit.simulation.piece_builder import SCALE, SWITCH, StageKind, is_whole_state
from toolkit.simulation.switches import Config

_COPIES = 3
"""Memory of a session in multiples of its model: the weights, packed weights, and while loading the message."""


def cost_of(pieces: Cutter, stages: Iterable[int], config: Config, elements: float, batches: int) -> float:
    """The cost of stages in a state by the graph's arithmetic, in multiply-accumulates.

    Args:
        stages: the numbers of the stages.
        elements: number of input elements of all samples.
        batches: number of batches.
    """
    costs = [pieces.cost(stage, config) for stage in stages]
    samples = elements / max(pieces.input_elements, 1)
    return sum(work for work, _ in costs) * samples + sum(calls for _, calls in costs) * batches


class LoadedPieces:
    """The sessions of pieces, within a memory limit.

    Args:
        pieces: the stages of the model.
        memory: the most bytes of sessions, including mapped weights; the session in use always stays.
    """

    def __init__(self, pieces: Cutter, memory: int) -> None:
        self._pieces, self._memory = pieces, memory
        self._owner = loaded.join(self)

    def __len__(self) -> int:
        """The number of loaded sessions."""
        return loaded.count(self._owner)

    def use(
        self, first: int, kinds: Sequence[StageKind], often: bool = False
    ) -> AbstractContextManager[tuple[Piece, Session]]:
        """The piece of these stages with its session; if memory is short, least recently used sessions are unloaded.

        Args:
            first: number of its first stage.
            kinds: the kind of each of its stages.
            often: see ``session``; a state first run on few batches is loaded again for many.
        """
        often = often and is_whole_state(kinds)

        def make() -> tuple[int, Callable[[], tuple[Piece, Session]]]:
            piece, packed = self._pieces.piece(first, kinds), not self._pieces.shares

            def load() -> tuple[Piece, Session]:
                # the session holds the weights it needs; an arena per session would grow with every input shape
                arena: Arena = "shared" if packed else "none"
                opened = session(piece.model, threads=1, packed=packed, arena=arena, often=often)
                return replace(piece, model=LightModel(onnx.ModelProto())), opened

            return piece.model.message_bytes * _COPIES + resident_bytes(piece.model, packed), load

        return loaded.use(self._owner, (first, tuple(kinds), often), make, self._memory)

    def reserve(self, size: int) -> None:
        """Count the bytes of kept states against the memory."""
        loaded.reserve(self._owner, size)

    def unload(self) -> None:
        """Free the memory of all sessions, but keep the reserved bytes."""
        loaded.unload(self._owner)
        run_pool.shrink()

    def forget(self) -> None:
        """Free the memory of all sessions, and cancel the reserved bytes."""
        loaded.drop(self._owner)
        run_pool.shrink()


class PlannedPiece:
    """A piece to run for one state, loaded when needed.

    Args:
        first: number of its first stage.
        kinds: the kind of each of its stages.
        often: whether it will be run on many batches.

    Attributes:
        last: number of its last stage.
    """

    def __init__(
        self, loaded: LoadedPieces, first: int, kinds: Sequence[StageKind], config: Config, often: bool = False
    ) -> None:
        self._loaded, self._first, self._kinds, self._config, self._often = loaded, first, kinds, config, often
        self.last = first + len(kinds) - 1
        self._choices: dict[str, Array] | None = None

    def load(self) -> None:
        """Load the piece, unless it is loaded."""
        with self._loaded.use(self._first, self._kinds, self._often):
            pass

    def run(self, state: Mapping[str, Array]) -> tuple[dict[str, Array], float]:
        """Run the piece on the tensors of ``state``; returns its outputs and the seconds of thread time."""
        with self._loaded.use(self._first, self._kinds, self._often) as (piece, opened):
            if self._choices is None:
                self._choices = self._chosen(piece)
            feed = {**self._choices, **{name: state[name] for name in piece.inputs}}
            begin = time.thread_time()
            made = opened.run(feed)
            return made, time.thread_time() - begin

    def _chosen(self, piece: Piece) -> dict[str, Array]:
        """The values of the piece's switch and scale inputs."""
        config = self._config
        choices: dict[str, Array] = {SWITCH + switch: np.asarray(switch in config.on) for switch in piece.switches}
        for tensor, kind in piece.scales.items():
            value = config.scales.get(tensor, 1.0)
            choices[SCALE + tensor] = np.asarray(value, helper.tensor_dtype_to_np_dtype(kind))
        return choices
