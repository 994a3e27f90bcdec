"""model.onnx of a run in onnxruntime, or its float32 form where a kernel for another type is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from toolkit.base.errors import ModelError, QtoolError
from toolkit.base.types import Array
from toolkit.graph.sessions.session import Session, session
from toolkit.run.folder.run_folder import PREPARED


def open_model(folder: Path, refused: bool) -> Session:
    """A session of a run's model.onnx, or of the same model before lowering, in float32 with its pairs.

    Args:
        folder: the run folder.
        refused: whether it is known that onnxruntime cannot run model.onnx.

    Raises:
        ModelError: onnxruntime can run neither.
    """
    path, prepared = folder / "model.onnx", folder / PREPARED
    if not prepared.is_file():
        return session(path, steady=False)
    instead = partial(session, prepared, steady=False)
    if refused:
        return instead()
    try:
        return _FirstOrInstead(session(path, steady=False), instead)
    except ModelError as error:
        try:
            return instead()
        except QtoolError:
            raise error from None


class _FirstOrInstead(Session):
    """A session that another one replaces if its first run fails: onnxruntime finds some kernels only then.

    Args:
        first: the session.
        instead: opens the other one.
    """

    def __init__(self, first: Session, instead: Callable[[], Session]) -> None:
        self._instead: Callable[[], Session] | None
        self._become(first)
        self._instead = instead

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """See ``Session.run``."""
        try:
            made = super().run(inputs, outputs)
        except ModelError as error:
            if self._instead is None:
                raise
            try:
                other = self._instead()
                made = other.run(inputs, outputs)
            except QtoolError:
                raise error from None
            self._become(other)
        self._instead = None
        return made

    def _become(self, other: Session) -> None:
        vars(self).update(vars(other))
