"""What ``qtool calibrate`` and ``qtool merge`` do, without typer: each returns an exit status."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.base.errors import QtoolError, RangesError, RecipeError
from toolkit.base.text import count, samples_by_profile

if TYPE_CHECKING:
    from toolkit.calibration.collection import Collection
    from toolkit.calibration.provider import Calibrator
    from toolkit.contract.ranges import Ranges
    from toolkit.graph.model import Model
    from toolkit.run.pipeline import Pipeline


def calibrate(recipe: Path, shard: str | None, out: Path | None, allow_code: bool, json: bool) -> int:
    """``qtool calibrate``: run the model over the samples, or a share of them, and keep the statistics."""
    from toolkit.base.code import import_path
    from toolkit.base.progress import Terminal
    from toolkit.cli.commands import emit, say
    from toolkit.run.guard import refuse_writing_over
    from toolkit.run.pipeline import Pipeline
    from toolkit.run.recipe import Recipe
    from toolkit.run.steps import RunFolder

    read = Recipe.load(recipe)
    part = _shard(shard)
    suffix = f"-{part[0]}-of-{part[1]}" if part[1] > 1 else ""
    folder = Path("runs") / read.name
    target = out if out is not None else folder / f"collection{suffix}.npz"
    if target.is_dir():
        raise QtoolError("this is a folder", where=str(target), remedy="give --out the name of a file")
    with Terminal() as terminal:
        # the run folder is not taken: the shards of one recipe may be collected side by side
        pipeline = Pipeline(read, RunFolder(folder), allow_code, terminal.progress)
        pipeline.inputs_exist()
        refuse_writing_over(pipeline.input_files(), target)
        with import_path(read.folder if allow_code else None):
            pipeline.names_exist()
            found = collect_for(pipeline, part, target)
    found.save(target)
    if json:
        emit({"file": str(target), **_counts(found)})
    else:
        say(f"{target}: {_words(found)}")
    return 0


def merge(parts: Sequence[Path], out: Path, json: bool) -> int:
    """``qtool merge``: join what the shards of one calibration collected."""
    from toolkit.calibration.collection import Collection, merge_all
    from toolkit.cli.commands import emit, say
    from toolkit.run.guard import refuse_writing_over

    refuse_writing_over({f"a part to be merged ({path.name})": path for path in parts}, out)
    if out.is_dir():
        raise QtoolError("this is a folder", where=str(out), remedy="give --out the name of a file")
    found = merge_all(Collection.load(path) for path in parts)
    found.save(out)
    missing = found.missing_parts
    if json:
        emit({"file": str(out), **_counts(found), "missing": missing})
    else:
        say(f"{out}: {_words(found)}" + (f"\nstill missing: parts {', '.join(missing)}" if missing else ""))
    return 0


class _Collected(QtoolError):
    """Ends the passes once the statistics are there: what they would do with ranges is of no concern."""


def collect_for(pipeline: Pipeline, shard: tuple[int, int], target: Path) -> Collection:
    """The statistics that a run of the recipe would collect when a pass first asks for ranges.

    The passes before that one are applied, since calibration sees the graph that they leave.

    Args:
        pipeline: the recipe.
        shard: (i, n): every n-th sample, starting with the i-th, counted from 1.
        target: where the result will be kept; an unfinished collection is kept beside it, and gone on from.

    Raises:
        RecipeError: the recipe has no calibration data.
        RangesError: there are no samples.
    """
    from toolkit.base.files import sha256_json
    from toolkit.calibration.collect import collect
    from toolkit.contract.journal import Journal
    from toolkit.contract.passes import Sequence as PassSequence

    if pipeline.recipe.calibration.data is None and pipeline.recipe.calibration.random is None:
        raise RecipeError(
            "there is nothing to calibrate with",
            where=pipeline.recipe.locate("calibration"),
            remedy='add [calibration] data = "..."',
        )
    journal = Journal()
    source = pipeline.source(journal)
    model = source.copy()
    steps = pipeline.passes()
    data = pipeline.calibration_data(model, journal)
    assert data is not None
    calibrator: Calibrator = pipeline.calibrator(data, journal)
    context = pipeline.context(model, journal)
    made: list[Collection] = []

    def provide(model: Model, tensors: Sequence[str] | None) -> Ranges:
        taps, scalars = calibrator.taps(model, tensors)
        key = sha256_json([model.fingerprint(), taps, scalars, data.fingerprint(), calibrator.memory, shard])
        made.append(
            collect(
                model,
                taps,
                data,
                data.profiles,
                scalars=scalars,
                batch=calibrator.batch,
                memory=calibrator.memory,
                progress=pipeline.progress,
                checkpoint=target.with_name(f".{target.name}-{key[:12]}.part"),
                shard=shard,
            )
        )
        raise _Collected("the statistics are collected")

    context.provider = provide
    try:
        PassSequence(passes=steps)(model, context)
        # a run looks at the float model where no pass asks for ranges
        provide(source, None)
    except _Collected:
        return made[0]
    raise RangesError("nothing was collected")


def _shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 1, 1
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    part, of = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= of:
        raise QtoolError(f"--shard is '{text}'", remedy="write i/n, such as 1/4, with i from 1 to n")
    return part, of


def _counts(found: Collection) -> dict[str, Any]:
    return {
        "samples": sum(found.samples.values()),
        "profiles": {name: found.samples_of(name) for name in found.profiles},
        "tensors": len(found.tensors),
        "observed": len(found.observed),
        "parts": found.made_from.get("shards", []),
    }


def _words(found: Collection) -> str:
    counts = _counts(found)
    samples = samples_by_profile(counts["samples"], counts["profiles"])
    return f"{samples}, histograms of {count(counts['tensors'], 'tensor')}, extremes of {counts['observed']} more"
