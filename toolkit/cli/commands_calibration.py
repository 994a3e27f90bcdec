"""What ``qtool calibrate`` and ``qtool merge`` do, without typer: each returns an exit status."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.base.errors import QtoolError, shortened
from toolkit.base.text import count, samples_by_profile

if TYPE_CHECKING:
    from toolkit.calibration.collection import Collection


def calibrate(
    recipe: Path, shard: str | None, out: Path | None, settings: Sequence[str], allow_code: bool, json: bool
) -> int:
    """``qtool calibrate``: run the model on the samples, save the statistics. Returns the exit status."""
    from toolkit.base.progress import Terminal
    from toolkit.cli.commands import emit, say
    from toolkit.run.calibrate import collect_shard
    from toolkit.run.folder.run_folder import RunFolder
    from toolkit.run.job import Job
    from toolkit.run.recipe.recipe import Recipe

    read = Recipe.load(recipe, settings)
    part = _shard(shard)
    suffix = f"-{part[0]}-of-{part[1]}" if part[1] > 1 else ""
    folder = RunFolder.of(read.name, None)
    target = out if out is not None else folder.path / f"collection{suffix}.npz"
    with Terminal() as terminal:
        found = collect_shard(Job(read, folder, allow_code, terminal.progress), part, target)
    if json:
        emit({"file": str(target), **_counts(found)})
    else:
        say(f"{target}: {_words(found)}")
    return 0


def merge(parts: Sequence[Path], out: Path, json: bool) -> int:
    """``qtool merge``: merge the statistics of a calibration's shards. Returns the exit status."""
    from toolkit.calibration.collection import Collection, is_collection, merge_all
    from toolkit.cli.commands import emit, say
    from toolkit.run.folder.guard import refuse_anothers, refuse_writing_over

    refuse_writing_over({f"a part to be merged ({path})": path for path in parts}, out)
    refuse_anothers(out, is_collection)
    found = merge_all(Collection.load(path) for path in parts)
    found.save(out)
    missing = found.missing_parts
    if json:
        emit({"file": str(out), **_counts(found), "missing": missing})
    else:
        say(f"{out}: {_words(found)}" + (f"\nstill missing: parts {', '.join(missing)}" if missing else ""))
    return 0


def _shard(text: str | None) -> tuple[int, int]:
    from toolkit.calibration.collection import MOST_SHARDS

    if text is None:
        return 1, 1
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
    part, of = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= of <= MOST_SHARDS:
        raise QtoolError(
            f"--shard is '{shortened(text)}'",
            remedy=f"write i/n, such as 1/4, with i from 1 to n, and n at most {MOST_SHARDS}",
        )
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
