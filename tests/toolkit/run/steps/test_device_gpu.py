"""Whole runs on a GPU: the engine's numbers and whether it paid. One command: ``pytest -m gpu tests/toolkit``."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest

from tests.conftest import MODELS, ROOT
from toolkit import Code, run
from toolkit.backends.choose import usable
from toolkit.backends.execution.measure import cuda_runtime
from toolkit.base.errors import RecipeError
from toolkit.cli.main import invoke

pytestmark = pytest.mark.gpu

PROFILES = {"digits_int8": ["single", "batch"], "strip_int8": ["short", "middle", "long"]}


@pytest.fixture(scope="module", params=list(PROFILES))
def place(request, tmp_path_factory):
    """A recipe of recipes/ for the tensorrt backend, with a float16 engine to compare with, run once."""
    features, refusal = usable("tensorrt")
    if features is None:
        pytest.skip(str(refusal))
    folder = tmp_path_factory.mktemp(request.param)
    text = (ROOT / "recipes" / f"{request.param}.toml").read_text().replace("../models", MODELS.as_posix())
    # The test host has no cuBLAS and cuDNN: only TensorRT's own kernels.
    settings = 'backend = "tensorrt"\ntactic_sources = []\noptimization_level = 1\nprefer = "int8"'
    if cuda_runtime() is not None:
        settings += '\ncompare = ["fp16"]'
    (folder / "recipe.toml").write_text(text.replace('backend = "auto"', settings))
    return request.param, folder, run(folder / "recipe.toml", folder / "out", device_check=True)


def test_every_profile_ran_real_samples_within_the_budget(place):
    name, _, result = place
    device = result.report.device
    print(name, result.report.summary.headline, {p: (a.samples, a.quantized) for p, a in device.profiles.items()})
    assert device.status == "ran" and device.gpu and not device.why
    assert set(device.profiles) == set(PROFILES[name])
    assert all(one.samples > 0 and one.outputs for one in device.profiles.values())
    assert device.accuracy.met and device.accuracy.drop <= device.accuracy.budget
    assert device.accuracy.metric == "top1" and device.samples == result.report.accuracy.samples
    for one in device.profiles.values():
        for output in one.outputs.values():
            assert output.sqnr_db > 15 and output.cosine > 0.98 and output.agreement > 0.95
    assert result.exit_status == 0 and "on the GPU" in result.report.summary.headline


def test_the_simulation_told_the_truth(place):
    _, _, result = place
    for name, output in result.report.device.accuracy.outputs.items():
        simulated = result.report.accuracy.outputs[name]
        assert abs(output.sqnr_db - simulated.sqnr_db) < 6, (output, simulated)


def test_latencies_and_groups_beside_float16(place):
    name, _, result = place
    if cuda_runtime() is None:
        pytest.skip("cuda-python is not installed, so nothing was measured")
    report = result.report
    assert set(PROFILES[name]) <= set(report.latency)
    compared = report.payoff.against["fp16"]
    print(
        name,
        {
            p: (round(t.ours_ms, 4), round(t.other_ms, 4), t.paid, round(t.noise, 3))
            for p, t in compared.profiles.items()
        },
    )
    assert set(compared.profiles) == set(PROFILES[name]) == set(report.payoff.overhead)
    assert all(times.ours_ms > 0 and times.other_ms > 0 for times in compared.profiles.values())
    assert all(times.turns == 5 for times in compared.profiles.values())
    held = json.loads((place[1] / "out" / ".qtool" / "compare.json").read_text())["engines"]["fp16"]["build"]["time_ms"]
    for profile, spent in report.payoff.overhead.items():
        ours = sum(g.times[profile].ours_ms for g in compared.groups if profile in g.times)
        other = sum(g.times[profile].other_ms for g in compared.groups if profile in g.times)
        rest = compared.rest.get(profile)
        assert ours + (rest.ours_ms if rest else 0) == pytest.approx(spent.layers_ms)
        assert other + (rest.other_ms if rest else 0) == pytest.approx(sum(t.get(profile, 0.0) for t in held.values()))
    quantized = [group for group in compared.groups if group.quantized]
    assert quantized and all(group.paid is not None and (group.why or group.paid == "faster") for group in quantized)


def test_the_result_opens_its_engine(place):
    """Through ``result.engine()`` and through onnxruntime the same samples come to nearly the same."""
    _, _, result = place
    session = result.session()
    with result.engine() as engine:
        for profile in result.report.profiles:
            feeds = {n: np.zeros(e.opt, np.float32) for n, e in profile.shapes.items()}
            ours, wanted = engine.run(feeds), session.run(feeds)
            assert set(ours) == set(wanted) and all(ours[k].shape == wanted[k].shape for k in wanted)
            assert all(np.isfinite(ours[k].astype(np.float32)).all() for k in wanted)
    assert str(result.folder) in repr(result)


def test_the_run_is_found_again(place):
    _, folder, _ = place
    again = run(folder / "recipe.toml", folder / "out")
    assert {step.status for step in again.steps} == {"reused"} and "device" in {step.name for step in again.steps}


def test_its_engine_is_timed_again(place, capsys):
    """``qtool time``: the run's engine and the float16 one beside it, in turn, near what the run itself measured."""
    name, folder, result = place
    if cuda_runtime() is None:
        pytest.skip("cuda-python is not installed, so nothing can be measured")
    assert invoke(["time", str(folder / "out"), "--layers", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    print(name, found["gpu"], found["times"], found["lacks"])
    assert found["gpu"] == result.report.device.gpu and not found["lacks"]
    assert len(found["times"]) == 2 * len(PROFILES[name])
    assert {one["profile"] for one in found["times"]} == set(PROFILES[name])
    for one in found["times"]:
        assert 0 < one["least"] <= one["median"] <= one["most"]
        assert one["median"] == pytest.approx(one["before"], rel=0.25)
    (layers,) = found["layers"].values()
    assert {profile for times in layers.values() for profile in times} == set(PROFILES[name])
    assert invoke(["time", str(folder / "out")]) == 0
    said = capsys.readouterr().out
    print(said)
    assert found["gpu"] in said and all(profile in said for profile in PROFILES[name])


def test_its_accuracy_is_measured_again_on_the_engine(place, capsys):
    """``qtool accuracy --on engine`` comes to what the run's own check came to, and to nearly what onnxruntime gives."""
    name, folder, result = place
    own = result.report.device
    assert invoke(["accuracy", str(folder / "out"), "--on", "engine", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    device = found["device"]
    print(name, found["verdict"], device["accuracy"]["drop"], own.accuracy.drop)
    assert found["verdict"] in ("usable", "doubtful") and "on the GPU" in result.report.summary.headline
    assert device["status"] == "ran" and found["accuracy"] is None and device["samples"] == own.samples
    assert set(device["profiles"]) == set(PROFILES[name])
    assert device["accuracy"]["drop"] == pytest.approx(own.accuracy.drop, abs=0.005)
    assert invoke(["accuracy", str(folder / "out"), "--on", "engine", "--samples", "8"]) in (0, 1)
    print(capsys.readouterr().out)


def test_the_exported_line_builds_an_engine_of_its_own(place, capsys):
    """Polygraphy executes what ``qtool export`` writes."""
    name, folder, _ = place
    if shutil.which("polygraphy") is None:
        pytest.skip("Polygraphy's command is not installed")
    there = folder / "export"
    assert invoke(["export", str(folder / "out"), "--to", "polygraphy", "--out", str(there), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    done = subprocess.run(["sh", str(there / "build.sh")], capture_output=True, text=True, timeout=500, check=False)
    print(name, made["command"], done.stdout[-500:], done.stderr[-500:])
    assert done.returncode == 0
    assert (there / "model.engine").stat().st_size > 0


def test_explain_answers_whether_it_is_faster(place, capsys):
    name, folder, _ = place
    if cuda_runtime() is None:
        pytest.skip("cuda-python is not installed, so nothing was measured")
    assert invoke(["explain", str(folder / "out")]) == 0
    said = capsys.readouterr().out
    print(name, said)
    assert "FP16" in said and "Why float?" in said and "Is it faster?" in said


def noted(folder, code):
    """The values of what the journal of a run notes under this code, in order."""
    lines = map(json.loads, (folder / "journal.jsonl").read_text().splitlines())
    return [line["values"] for line in lines if line["kind"] == "noted" and line["rule"] == code.value]


def test_its_measured_times_feed_a_search(place):
    """The report of a run on this GPU, and of the float run beside it, replace the cost model's predictions."""
    name, folder, result = place
    if cuda_runtime() is None:
        pytest.skip("cuda-python is not installed, so nothing was measured")
    text = (folder / "recipe.toml").read_text().replace('compare = ["fp16"]', "").replace("budget = {", "# budget = {")
    insert = '[[pass]]\nuse = "insert_qdq"\n'
    search = '[[pass]]\nuse = "search_precision"\n'
    bare = text.replace(insert, "").replace(search, "")
    assert "insert_qdq" not in bare and "search_precision" not in bare
    (folder / "float.toml").write_text(bare)
    plain = run(folder / "float.toml", folder / "float", device_check=False).report
    # the strip reader TensorRT runs in blocks, which are timed as a whole; in float that may be all of it
    products = [layer for layer in result.report.layers if layer.op in ("Conv", "Gemm", "MatMul")]
    layers = {layer.node for layer in products if layer.asked is not None and layer.asked.precision == "int8"}
    in_blocks, float_blocks = ({one.node for one in r.layers if one.status == "opaque"} for r in (result.report, plain))
    hidden, some = layers <= float_blocks, bool(layers & (in_blocks | float_blocks))
    assert layers and (some or name != "strip_int8")

    def recipe(*runs):
        given = ", ".join(f'"{folder / one}"' for one in runs)
        more = f'times = [{given}]\nprefer = "time"\nmin_sqnr_db = 20.0\n'
        (folder / "search.toml").write_text(text.replace(insert, search + more))

    if hidden:
        recipe("out", "float")
        with pytest.raises(RecipeError, match="blocks that are timed only as a whole"):
            run(folder / "search.toml", folder / "search", device_check=False)
    recipe("out", *([] if hidden else ["float"]))
    found = run(folder / "search.toml", folder / "search", device_check=False).report.search
    print(name, found.measured_share, found.float_ms, found.warnings, found.notes)
    print([(p.kept, round(p.predicted_ms, 4), round(p.quantized_share, 3), p.meets, p.chosen) for p in found.plans])
    taken = noted(folder / "search", Code.TIMES_FROM_REPORT)
    assert taken and all(one["layers"] > 0 for one in taken)
    assert any(one["in_blocks"] for one in taken) == some
    assert some or found.measured_share > 0.8
    assert found.met and found.chosen.predicted_ms > 0
    whole = result.report.latency[PROFILES[name][0]]["opt"]
    assert some or 0.2 < found.chosen.predicted_ms / whole < 5


def test_a_search_measures_its_own_layer_times(place):
    """Two engines are built for it, unasked; a search that goes on builds none."""
    name, folder, _ = place
    if cuda_runtime() is None:
        pytest.skip("cuda-python is not installed, so nothing was measured")
    text = (folder / "recipe.toml").read_text().replace('compare = ["fp16"]', "").replace("budget = {", "# budget = {")
    search = '[[pass]]\nuse = "search_precision"\nprefer = "time"\nmin_sqnr_db = 20.0\n'
    (folder / "own.toml").write_text(text.replace('[[pass]]\nuse = "insert_qdq"\n', search))
    report = run(folder / "own.toml", folder / "own", device_check=False).report
    (said,) = noted(folder / "own", Code.TIMES_MEASURED)
    print(name, said, report.search.gpu, report.search.measured_share, report.search.float_ms, report.search.warnings)
    print([(p.kept, round(p.predicted_ms, 4), p.meets, p.chosen) for p in report.search.plans], report.latency)
    assert report.search.gpu and report.search.gpu in said["gpu"] and report.search.measured_share > 0.5
    chosen, real = report.search.chosen.predicted_ms, report.latency[PROFILES[name][0]]["opt"]
    assert chosen == pytest.approx(real, rel=0.25)
    measured = (folder / "own" / ".qtool" / "engines.jsonl").read_text()
    (folder / "own" / ".qtool" / "passes.json").unlink()
    run(folder / "own.toml", folder / "own", device_check=False)
    assert (folder / "own" / ".qtool" / "engines.jsonl").read_text() == measured
