"""Compares the answers of two models by part of the outputs; the search, the run and the engine are judged by it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from toolkit.base.types import Array
from toolkit.evaluation.comparison.row_sets import side_by_side
from toolkit.evaluation.metrics.table import by_position
from toolkit.evaluation.observation.position_mask import entries_on
from toolkit.evaluation.quantized_values import dequantized
from toolkit.evaluation.tasks import AnswerTally, OutputPart, Rows, chooses_class, reader, scales_of


class Answers:
    """Interprets the outputs of the float model and of another model by task. Can be sent to another process.

    Args:
        parts: the parts of the outputs to judge.

    Attributes:
        unscored: the outputs that, by their tasks, hold no scores of classes.
    """

    def __init__(self, parts: Sequence[OutputPart]) -> None:
        self.parts = tuple(parts)
        self._readers = [reader(part) for part in self.parts]
        scored = {name for part in self.parts if chooses_class(part) for name in part.outputs}
        self.unscored = {name for part in self.parts for name in part.outputs} - scored
        partial = (part for part in reversed(self.parts) if "mask" in part.settings or "lengths" in part.settings)
        self._partial = {name: part.settings for part in partial for name in part.outputs}
        self._scales = scales_of(self.parts)

    def __repr__(self) -> str:
        return f"Answers({json.dumps([part.to_json() for part in self.parts], sort_keys=True)})"

    def batch(self, most: int) -> int:
        """How many samples to run at once, at most ``most``.

        It is 1 if an output has no batch axis, since a larger batch would then be a single answer.
        """
        return 1 if any(part.settings.get("batch_axis", 0) is None for part in self.parts) else most

    def within(self, names: Sequence[str]) -> Answers | None:
        """The answers that can be read from these outputs alone; None if none can."""
        parts = [part for part in self.parts if set(part.outputs) <= set(names)]
        return Answers(parts) if parts else None

    def counted_by(self, metric: str | None) -> Answers:
        """The same answers counted as the metric counts: by position, if the metric is a share of positions."""
        if not by_position(metric):
            return self
        each = {"sequence": "generation"}
        return Answers([replace(part, task=each.get(part.task, part.task)) for part in self.parts])

    def rows(
        self, wanted: Mapping[str, Array], found: Mapping[str, Array], inputs: Mapping[str, Array] | None = None
    ) -> list[Rows]:
        """One batch's answers by part.

        Args:
            wanted: the float model's outputs by name.
            found: the other model's outputs by name.
            inputs: the batch's inputs, needed if one of them masks positions.
        """
        return [one.rows(wanted, found, inputs) for one in self._readers]

    def floats(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of one batch, with quantized values replaced by the floats that they stand for."""
        return {name: dequantized(value, self._scales.get(name)) for name, value in outputs.items()}

    def side_by_side(
        self, wanted: Mapping[str, Array], found: Mapping[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """The ``floats`` of both models, with rows ranked by score reordered so that equal rows correspond.

        Args:
            wanted: the float model's outputs by name.
            found: the other model's outputs by name.
        """
        made, ranked = (self.floats(wanted), self.floats(found)), self.ranked_rows(wanted, found)
        return made[0] | ranked[0], made[1] | ranked[1]

    def ranked_rows(
        self, wanted: Mapping[str, Array], found: Mapping[str, Array], matched: bool = False
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """The outputs with rows ranked by score, reordered so that equal rows of both models correspond.

        Args:
            wanted: the float model's outputs by name.
            found: the other model's outputs by name.
            matched: whether to leave out rows that the other model lacks; else they correspond to zeros.
        """
        made: tuple[dict[str, Array], dict[str, Array]] = ({}, {})
        for part in self.parts:
            if part.settings.get("ranked") is True:
                for whole, own in zip(made, side_by_side(part, wanted, found, matched)):
                    whole.update(own)
        return made

    def entries_on(self, name: str, outputs: Mapping[str, Array], inputs: Mapping[str, Array] | None) -> Array | None:
        """Which entries of an output hold answers, if an input masks positions or an output gives lengths.

        Args:
            name: the output's name.
            outputs: the float model's outputs for one batch.
            inputs: the batch's inputs.

        Returns:
            Bool, broadcastable to the output; None if all entries may hold answers.
        """
        settings = self._partial.get(name)
        if settings is None or settings.get("batch_axis", 0) != 0:
            return None
        return entries_on(settings, outputs[name], inputs or {}, outputs)

    def tallies(self, batches: Sequence[Sequence[Rows]]) -> tuple[AnswerTally, ...]:
        """The answers of all batches by part.

        Values that substitute for answers are left out if the samples show both answers, which then suffice.
        """
        if not batches:
            return ()
        found = [one.tally([batch[place] for batch in batches]) for place, one in enumerate(self._readers)]
        one_answer = {one.part.outputs for one in found if one.only is not None}
        return tuple(one for one in found if not one.judges_values or one.part.outputs in one_answer)
