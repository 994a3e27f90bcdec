"""A run whose search for the fastest engine builds its trials here alone, and one that builds them on all GPUs by Ray.

On a GPU host with two GPUs or more and Ray: python3.10 -m tests.benchmarks.bench_cluster_gpu FOLDER OUT MODEL [LEVEL]

FOLDER has MODEL.onnx and MODEL.npz. Each run is a process of its own, the local one first, with no timing cache of the
other's. Printed are the seconds of the whole and of its passes, in which the trials are built, what each run built where,
and whether ranges, pairs removed and accuracy are the same. Latencies decide which pairs are removed: where it differs, the
trials' latencies beside it tell whether by noise.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from toolkit import Model

RECIPE = """
[model]
path = "{model}"
[[profile]]
name = "all"
{shapes}
[calibration]
data = "{data}"
samples = 32
[[pass]]
use = "fold_constants"
[[pass]]
use = "fold_batchnorm"
[[pass]]
use = "insert_qdq"
only_if_faster = true
builds = 8
[engine]
backend = "tensorrt"
typing = "weak"
tactic_sources = []
optimization_level = {level}
[evaluation]
samples = 16
layer_samples = 4
"""


def write(folder: Path, out: Path, name: str, level: int) -> Path:
    """The recipe, with a profile of 1 to 8 samples."""
    shapes = ""
    inputs = Model.load(folder / f"{name}.onnx").input_shapes()
    with np.load(folder / f"{name}.npz") as samples:
        # beside them there may be labels
        for tensor in (one for one in samples.files if one in inputs):
            one = list(samples[tensor].shape[1:])
            shapes += f"shapes.{tensor} = {{ min = {[1, *one]}, opt = {[8, *one]}, max = {[8, *one]} }}\n"
    path = out / f"{name}.toml"
    files = {"model": folder / f"{name}.onnx", "data": folder / f"{name}.npz"}
    path.write_text(RECIPE.format(**files, shapes=shapes, level=level))
    return path


def measured(recipe: Path, out: Path, on: str) -> dict[str, Any]:
    """Run it there; what it found."""
    begin = time.monotonic()
    words = [sys.executable, "-m", "toolkit.cli.main", "run", str(recipe), "--out", str(out), "--on", on]
    done = subprocess.run(words, capture_output=True, text=True)
    seconds = time.monotonic() - begin
    print(f"{on}: exit status {done.returncode}, {seconds:.1f} s", flush=True)
    if not (out / "faster.json").exists():
        print(done.stdout[-3000:], done.stderr[-3000:], sep="\n")
        sys.exit(1)
    report = json.loads((out / "report.json").read_text())
    found = json.loads((out / "faster.json").read_text())
    notes = map(json.loads, (out / "journal.jsonl").read_text().splitlines())
    print("  steps:", {one["name"]: one["seconds"] for one in report["steps"]})
    print(f"  engines built {found['builds']}; trials, of the float engine's latency and its noise:")
    for trial in found["trials"]:
        print(f"    {len(trial['float']):4} layers float {trial['of_float']:.4f} +- {trial['noise']:.4f}")
    print(
        "  built anew here:", [note["values"] for note in notes if note.get("rule") == "trial-built-anew"], flush=True
    )
    return {
        "ranges": json.loads((out / "ranges.json").read_text())["tensors"],
        "pairs removed": sorted(found["pairs_removed"]),
        "trials": sorted(sorted(trial["float"]) for trial in found["trials"]),
        "accuracy": report["accuracy"]["outputs"],
        "seconds": seconds,
    }


def main() -> None:
    """Two runs and what of them is the same."""
    folder, out, name, level = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int((*sys.argv[4:], 1)[0])
    out.mkdir(parents=True, exist_ok=True)
    subprocess.run(["nvidia-smi", "-L"], check=False)
    recipe = write(folder.resolve(), out.resolve(), name, level)
    here, there = (measured(recipe, out.resolve() / on, on) for on in ("here", "ray"))
    for what in here.keys() - {"seconds"}:
        print(f"{what} {'the same' if here[what] == there[what] else 'DIFFER'}")
    print(f"{name}: {here['seconds']:.1f} s here, {there['seconds']:.1f} s on Ray")


if __name__ == "__main__":
    main()
