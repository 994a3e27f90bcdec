"""The evaluation step's time over plain inference of its samples, both measured in turns by one process.

    python -m tests.benchmarks.bench_evaluation captcha_reader=REAL/captcha_reader focus=REAL/focus resnet50=resnet50.onnx

A model is a folder of ``real_data`` or an ONNX file with one image input, which gets random images, made by ``models.py``.
The captcha reader's samples are cut to widths of 96 to 160. The recipe is insert_qdq alone with backend none; plain
inference opens onnxruntime's own session and goes through the very same batches once. Seconds of the clock and of all
processors, the median of ``--turns`` turns, each with plain inference before and after the evaluation.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from toolkit.base.cpu import session_threads
from toolkit.base.progress import silent
from toolkit.run.checks.preflight import opened
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.recipe.recipe import Recipe
from toolkit.run.steps.evaluation import EvaluationStep
from toolkit.run.steps.lowering import LoweringStep
from toolkit.run.steps.passes import PassesStep
from toolkit.run.steps.task import TaskStep

RECIPE = """[model]
path = "{model}"

[calibration]
data = "{folder}/calibration.npz"
method = "minmax"

[[pass]]
use = "insert_qdq"

[engine]
backend = "none"

[evaluation]
data = "{folder}/test.npz"
"""


def data_for(name: str, source: Path, samples: int, folder: Path) -> Path:
    """Write calibration and test samples; returns the model's file."""
    if source.is_dir():
        whole = {key: np.load(source / f"{key}.npz") for key in ("calibration", "test")}
        drawn = {key: {n: v for n, v in data.items() if n != "label"} for key, data in whole.items()}
    else:
        (one,) = ort.InferenceSession(str(source)).get_inputs()
        images = np.random.default_rng(0).standard_normal((samples + 8, *one.shape[1:]), np.float32)
        drawn = {"calibration": {one.name: images[:8]}, "test": {one.name: images[8:]}}
    for key, arrays in drawn.items():
        count = samples if key == "test" else 8
        few = {n: v[:count] for n, v in arrays.items()}
        if name == "captcha_reader":
            few = {f"{n}/{i:05d}": v[i : i + 1, ..., : 96 + 8 * (i % 9)] for n, v in few.items() for i in range(len(v))}
        np.savez(folder / f"{key}.npz", **few)  # type: ignore[arg-type]
    return source / "model.onnx" if source.is_dir() else source


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the clock and of all processors."""
    clock, processors = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processors


def measure(name: str, source: Path, samples: int, turns: int) -> None:
    """Print a model's line."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = data_for(name, source.resolve(), samples, folder)
        (folder / "recipe.toml").write_text(RECIPE.format(model=model, folder=folder))
        job = Job(Recipe.load(folder / "recipe.toml"), RunFolder(folder / "out"), False, silent)
        with opened(job):
            inputs = Inputs(job)
            task = TaskStep(inputs).run()
            passes = PassesStep(inputs, task)
            made = passes.keep(passes.run(), passes.key(), "")
            lowering = LoweringStep(inputs, made)
            lowered = lowering.keep(lowering.run(), lowering.key(), "")
            data, _ = inputs.evaluation_data(inputs.reference())
            assert data is not None
            step = EvaluationStep(inputs, task, made, lowered)

            quiet = ort.SessionOptions()
            quiet.log_severity_level = 4
            # its own default counts the machine's cores, not those that this process may use
            quiet.intra_op_num_threads = session_threads()

            def plain() -> None:
                inner = ort.InferenceSession(str(model), quiet, providers=["CPUExecutionProvider"])
                for batch in data.batches(job.recipe.evaluation.batch):
                    inner.run(None, batch.inputs)

            rows, found, layers = [], [], 0
            for _ in range(turns):
                before = timed(plain)
                own = timed(lambda: found.append(step.run()))
                after = timed(plain)
                layers = found[-1].found.layer_samples
                rows.append((own, tuple((a + b) / 2 for a, b in zip(before, after))))
        clock, processors = (statistics.median(own[i] / base[i] for own, base in rows) for i in (0, 1))
        own, base = min(rows)
        print(
            f"{name:<16}{samples:>5}{layers:>8}{own[0]:>10.2f}{base[0]:>8.2f}{clock:>7.2f}{own[1]:>10.2f}{base[1]:>8.2f}"
            f"{processors:>7.2f}",
            flush=True,
        )


def main() -> None:
    """A line a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="NAME=FOLDER or NAME=FILE.onnx, with :SAMPLES after it")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    print(f"{'':<16}{'':>5}{'layer':>8}{'clock, s':>25}{'processors, s':>25}")
    print(f"{'model':<16}{'N':>5}{'samples':>8}" + f"{'evaluation':>11}{'plain':>7}{'ratio':>7}" * 2)
    for one in given.models:
        name, _, path = one.partition("=")
        path, _, samples = path.partition(":")
        measure(name, Path(path), int(samples or given.samples), given.turns)


if __name__ == "__main__":
    main()
