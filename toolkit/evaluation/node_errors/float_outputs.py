"""The float model's outputs for the samples, computed on demand, or in advance to release the session."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from toolkit.base.types import Array
from toolkit.evaluation.node_errors.checkpoint import EvaluationCheckpoint
from toolkit.graph.model import Model
from toolkit.graph.proto.on_disk import spilled
from toolkit.graph.sessions.session import Session, drop_large_session, own_session
from toolkit.graph.surgery.tensors import arrays_digest


class FloatOutputs:
    """The outputs of the float model.

    Attributes:
        outputs: names of the outputs.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._loaded: Session | None = own_session(model)
        self._known: dict[str, dict[str, Array]] = {}
        self.outputs = self._loaded.outputs

    def session(self) -> Session:
        """The model's session, loaded again if it was released."""
        if self._loaded is None:
            self._loaded = own_session(self._model)
        return self._loaded

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs for these inputs."""
        known = self._known.get(arrays_digest(inputs)) if self._known else None
        return dict(known) if known is not None else self.session().run(inputs)

    def precompute(self, samples: Iterable[Mapping[str, Array]], kept: EvaluationCheckpoint | None = None) -> None:
        """Compute the outputs for all of these inputs, on disk if they are large, and release the session.

        A session takes 8 kB per node, which matters for graphs with very many nodes, with two sessions at a time.

        Args:
            samples: the inputs, one after the other.
            kept: checkpoint with outputs of an interrupted evaluation, which receives those of this one.
        """
        kept = kept or EvaluationCheckpoint()
        for inputs in samples:
            (made,) = kept.outputs(inputs, lambda given: [self.session().run(given)], 1)
            self._known[arrays_digest(inputs)] = {name: spilled(value) for name, value in made.items()}
        kept.close()
        self.give_back()

    def give_back(self) -> None:
        """Release the session, unless the model keeps it."""
        self._loaded = None
        drop_large_session(self._model)
