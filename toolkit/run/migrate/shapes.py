"""The shapes of a migrated recipe whose source gives none: those of the samples that it is to run on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from toolkit.base.given import names_code
from toolkit.graph.interface.states import shapes_to_join
from toolkit.graph.model import Model
from toolkit.report.migrate_codes import MigrateCode
from toolkit.run.migrate.orders.entries import Settled
from toolkit.run.new.samples import GivenSamples
from toolkit.run.recipe.new_profile import profile_shapes


def take_shapes(settled: Settled, model: Model, sources: Sequence[Path]) -> None:
    """Replace the profile in which all dynamic dimensions are 1 by the shapes of the samples, with a batch of 1.

    trtexec and Polygraphy build for sizes of 1 if no shapes are given, which few samples fit. Nothing changes if the
    source gives shapes, if there are no samples, or if theirs are these.

    Args:
        settled: the settings, changed in place.
        model: the model.
        sources: files or folders of samples; those that name code are not read.

    Raises:
        DataError: samples cannot be read, or do not fit the model.
    """
    known = [source for source in sources if source.exists() or not names_code(str(source))]
    if not settled.shapeless or not known:
        return
    found = profile_shapes(shapes_to_join(model), GivenSamples.of(model, known).shapes, alone=True)
    profiles = dict(enumerate(found))
    if not found or profiles == settled.profiles:
        return
    settled.profiles = profiles
    settled.turns = [
        replace(turn, why=MigrateCode.SHAPES_OF_SAMPLES(**turn.why.values))
        if turn.why is not None and turn.why.code is MigrateCode.SHAPES_OF_ONES else turn
        for turn in settled.turns
    ]  # fmt: skip
