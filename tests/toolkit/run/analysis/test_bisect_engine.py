"""``qtool bisect --on engine`` with stand-ins for TensorRT and the child process: verdicts, resuming, what fails."""

from __future__ import annotations

import json
from typing import ClassVar

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from tests.conftest import run as compute
from tests.toolkit.run.steps.test_device import Builder, FakeEngine, on_gpu  # noqa: F401
from toolkit.backends import choose
from toolkit.backends.codes import EngineCode
from toolkit.backends.layers.layer import Build
from toolkit.backends.processes import process
from toolkit.backends.trials import bench
from toolkit.base.errors import BackendError
from toolkit.base.gpu import Gpu
from toolkit.cli.main import invoke
from toolkit.contract.bench import TurnsFound
from toolkit.report.codes import ReportCode

FRAGILE, TENSOR = "second", "r0"
RECIPE = """
[model]
path = "model.onnx"
[[profile]]
name = "single"
shapes.image = {{ min = [1, 1, 8, 8], opt = [1, 1, 8, 8], max = [4, 1, 8, 8] }}
[[profile]]
name = "batch"
shapes.image = {{ min = [48, 1, 8, 8], opt = [48, 1, 8, 8], max = [64, 1, 8, 8] }}
[calibration]
data = "data.npz"
samples = 40
manual = {{ "{tensor}" = {amax} }}
[[pass]]
use = "insert_qdq"
{later}
"""


def network():
    """Four layers with weights, from images [n, 1, 8, 8] to ten scores."""
    weights = {"w0": normal(4, 1, 3, 3, seed=1), "w1": normal(8, 4, 3, 3, seed=2, scale=0.2),
               "w2": normal(8, 8, 1, 1, seed=3, scale=0.4), "w3": normal(8, 10, seed=4)}  # fmt: skip
    return build(
        [
            node("Conv", ["image", "w0"], ["c0"], "first"), node("Relu", ["c0"], ["r0"]),
            node("Conv", ["r0", "w1"], ["c1"], "second"), node("Relu", ["c1"], ["r1"]),
            node("MaxPool", ["r1"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", ["p", "w2"], ["c2"], "third"), node("Relu", ["c2"], ["r2"]),
            node("GlobalAveragePool", ["r2"], ["g"]), node("Flatten", ["g"], ["f"]), node("Gemm", ["f", "w3"], ["logits"], "last"),
        ],
        {"image": ["n", 1, 8, 8]}, {"logits": ["n", 10]}, weights,
    )  # fmt: skip


def recipe(amax=0.01, later=""):
    """A recipe with two profiles, one of which no 40 samples fill; ``amax`` makes one layer fail, or is about right."""
    return RECIPE.format(tensor=TENSOR, amax=amax, later=later)


LATER = '[[pass]]\nuse = "keep_precision"\nops = ["MaxPool"]\nprecision = "fp32"'


class Bench(Builder):
    """Gives the model itself for an engine, and remembers which layers of it read a pair."""

    built: ClassVar[list[frozenset[str]]] = []
    settings: ClassVar[list] = []

    def build(self, model_path, profiles, settings, log=None, progress=None, extras=None):
        graph = onnx.load(model_path).graph
        makers = {name: node.op_type for node in graph.node for name in node.output}
        layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
        inside = {node.name for node in layers if makers.get(node.input[0]) == "DequantizeLinear"}
        Bench.built.append(frozenset(inside))
        Bench.settings.append(settings)
        why = self.refuses(inside)
        if why:
            raise BackendError(why, where="the stand-in", remedy="none")
        return Build("tensorrt", "8.6.0", engine=model_path.read_bytes())

    refuses = staticmethod(lambda inside: "")


@pytest.fixture
def place(tmp_path, on_gpu, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Bench, "built", [])
    monkeypatch.setattr(Bench, "settings", [])
    monkeypatch.setattr(choose, "choose", lambda name="auto": (Bench(), EngineCode.BACKEND_REQUESTED()))
    prepare(tmp_path)
    return tmp_path


def prepare(folder):
    """The model, images whose labels are its own answers, and the recipe."""
    images = normal(96, 1, 8, 8, seed=5)
    (scores,) = compute(network(), {"image": images})
    np.savez(folder / "data.npz", image=images, label=scores.argmax(axis=-1))
    onnx.save(network(), str(folder / "model.onnx"))
    (folder / "r.toml").write_text(recipe())


def call(place, capsys, *words, status=0, out="run"):
    words = ("bisect", str(place / "r.toml"), "--out", str(place / out), "--on", "engine", *words)
    found = invoke([*words, "--json"])
    said = capsys.readouterr()
    assert found == status, said.err
    return json.loads(said.out) if not status else said.err


@pytest.mark.parametrize("typing", ["strong", "weak"])
def test_a_fragile_layer_is_found_with_real_samples_in_every_profile(place, capsys, typing):
    (place / "r.toml").write_text(recipe(later=f'[engine]\ntyping = "{typing}"'))
    found = call(place, capsys, "--min-sqnr-db", "15")
    assert found["kept"] == [FRAGILE] and f'"{FRAGILE}"' in found["recipe"]
    assert found["checks"] == len(Bench.built) > 4
    # everything quantized, every layer float, and at last the answer, each twice
    assert Bench.built[0] == Bench.built[1] and FRAGILE in Bench.built[0]
    assert not Bench.built[2] and Bench.built[-1] == Bench.built[0] - {FRAGILE}
    assert {profile for profile, _ in FakeEngine.fed} == {"single", "batch"}
    assert {shape[0] for profile, shape in FakeEngine.fed if profile == "batch"} == {48}
    failed = [verdict for verdict in found["verdicts"] if not verdict["passed"]]
    assert failed and all("min_sqnr_db is missed by" in verdict["reason"] for verdict in failed)
    assert found["notes"] == [ReportCode.BATCHES_FILLED(count=1).to_json()]
    caches = {settings.timing_cache for settings in Bench.settings}
    assert caches == {place / "run" / ".qtool" / "engines.timing"} and not Bench.settings[0].measure
    assert not list((place / "run").rglob("*.engine"))


class Slow(Bench):
    """Every quantized layer makes the engine a millisecond slower."""

    def cannot_measure(self):
        return ""

    def build(self, model_path, *given, **more):
        made = super().build(model_path, *given, **more)
        made.latency = {name: {"opt": 1.0 + len(Bench.built[-1])} for name in ("single", "batch")}
        return made

    def in_turn(self, engines, profiles, progress=None):
        graphs = {name: onnx.load_from_string(file.read_bytes()).graph for name, file in engines.items()}
        times = {n: [1.0 + sum(node.op_type == "QuantizeLinear" for node in g.node)] * 5 for n, g in graphs.items()}
        return TurnsFound({"single": times, "batch": times})


def test_pairs_that_only_cost_time_are_judged_all_the_same(place, capsys, monkeypatch):
    monkeypatch.setattr(choose, "choose", lambda name="auto": (Slow(), EngineCode.BACKEND_REQUESTED()))
    found = call(place, capsys, "--min-sqnr-db", "15")
    assert found["kept"] == [FRAGILE] and found["checks"] == len(Bench.built) > 4


def test_the_simulation_finds_the_same_and_neither_loses_the_others_verdicts(place, capsys):
    call(place, capsys, "--min-sqnr-db", "15")
    words = ["bisect", str(place / "r.toml"), "--out", str(place / "run"), "--min-sqnr-db", "15", "--json"]
    assert invoke(words) == 0 and json.loads(capsys.readouterr().out)["kept"] == [FRAGILE]
    count = len(Bench.built)
    assert call(place, capsys, "--min-sqnr-db", "15")["checks"] == 0 and len(Bench.built) == count


def test_the_engines_outputs_are_judged_and_not_the_simulations(place, capsys, monkeypatch):
    (place / "r.toml").write_text(recipe(20.0))
    assert call(place, capsys, "--min-agreement", "0.9")["kept"] == []
    monkeypatch.setattr(FakeEngine, "spoil", staticmethod(lambda outputs, profile: {"logits": -outputs["logits"]}))
    said = call(place, capsys, "--min-agreement", "0.91", status=2)
    assert "fails even with every layer in float: min_agreement is missed by" in said and "--precision" in said


def test_resumed_it_builds_nothing_again(place, capsys, monkeypatch):
    built = Bench.build

    def killed(self, *args, **kwargs):
        if len(Bench.built) == 3:
            raise KeyboardInterrupt
        return built(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Bench, "build", killed)
        assert invoke(["bisect", str(place / "r.toml"), "--out", str(place / "run"), "--on", "engine",
                       "--min-sqnr-db", "15"]) != 0  # fmt: skip
    capsys.readouterr()
    assert len(Bench.built) == 3
    rest = call(place, capsys, "--min-sqnr-db", "15")
    assert rest["kept"] == [FRAGILE] and rest["checks"] == len(Bench.built) - 3
    count = len(Bench.built)
    assert call(place, capsys, "--min-sqnr-db", "15")["checks"] == 0 and len(Bench.built) == count
    whole = call(place, capsys, "--min-sqnr-db", "15", out="whole")
    assert whole["checks"] == count and whole["verdicts"] == rest["verdicts"]
    # other limits are another question, and so is another GPU
    assert call(place, capsys, "--min-sqnr-db", "14")["checks"] > 0
    monkeypatch.setattr(bench, "find_gpu", lambda: Gpu("NVIDIA Other", "8.9"))
    assert call(place, capsys, "--min-sqnr-db", "14")["checks"] > 0


def test_what_cannot_be_built_or_run_fails_and_the_log_says_why(place, capsys, monkeypatch):
    monkeypatch.setattr(Bench, "refuses", staticmethod(lambda inside: "no kernel" if FRAGILE in inside else ""))
    (place / "r.toml").write_text(recipe(20.0))
    found = call(place, capsys, "--min-sqnr-db", "5")
    assert found["kept"] == [FRAGILE] and "no kernel" in found["verdicts"][0]["reason"]
    log = (place / "run" / ".qtool" / "bisect.engine.jsonl").read_text()
    assert "the stand-in: no kernel" in log


def test_an_engine_without_pairs_that_fails_is_an_error(place, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Bench, "refuses", staticmethod(lambda inside: "no memory"))
        said = call(place, capsys, "--min-sqnr-db", "15", status=3)
        assert "the engine with every layer float fails: no memory" in said

    def crash(job, request, log=None, progress=None):
        raise BackendError("the process that ran 'run_engine' was ended by SIGSEGV", remedy="try another version")

    monkeypatch.setattr(process, "run_job", crash)
    assert "SIGSEGV" in call(place, capsys, "--min-sqnr-db", "16", status=3)


def test_a_flaky_engine_is_noticed(place, capsys, monkeypatch):
    def flaky(outputs, profile):
        return {"logits": outputs["logits"] * (np.float32(1 if len(Bench.built) == 4 else -1))}

    monkeypatch.setattr(FakeEngine, "spoil", staticmethod(flaky))
    said = call(place, capsys, "--min-sqnr-db", "15", status=2)
    assert "flaky: with every layer float it answers fail, pass" in said


def test_passes_after_the_quantizing_one_are_in_the_engines(place, capsys, monkeypatch):
    seen = []
    build = Bench.build

    def spy(self, model_path, profiles, settings, log=None, progress=None, extras=None):
        seen.append(str(extras.plan.get("pool").precision))
        return build(self, model_path, profiles, settings, log, progress, extras)

    monkeypatch.setattr(Bench, "build", spy)
    (place / "r.toml").write_text(recipe(later=LATER))
    assert call(place, capsys, "--min-sqnr-db", "15")["kept"] == [FRAGILE] and set(seen) == {"fp32"}


def test_without_a_gpu_it_is_refused_before_anything_is_done(tmp_path, capsys, monkeypatch):
    from toolkit.base import gpu

    monkeypatch.setattr(gpu, "find_gpu", lambda: None)
    prepare(tmp_path)
    said = call(tmp_path, capsys, "--min-sqnr-db", "15", status=3)
    assert "no GPU to run" in said and "leave out --on engine" in said and not (tmp_path / "run").exists()


def test_without_a_backend_it_is_refused_before_anything_is_done(place, capsys, monkeypatch):
    from toolkit.backends.none import NoBackend

    monkeypatch.setattr(
        choose, "choose", lambda name="auto": (NoBackend(), EngineCode.NO_BACKEND_USABLE(refused=("nothing loads",)))
    )
    said = call(place, capsys, "--min-sqnr-db", "15", status=2)
    assert "no engine is built (" in said and "nothing loads" in said and not (place / "run").exists()


def test_the_metric_and_its_budget_are_the_recipes(place, capsys, monkeypatch):
    evaluation = '[evaluation]\ndata = "data.npz"\nmetric = "top1"\nbudget.max_drop = 0.1'
    (place / "r.toml").write_text(recipe(later=evaluation))
    found = call(place, capsys, "--data", "evaluation", "--samples", "96")
    assert found["kept"] == [FRAGILE] and "max_drop is missed by" in found["verdicts"][0]["reason"]
    monkeypatch.setattr(FakeEngine, "spoil", staticmethod(lambda outputs, profile: {"logits": np.float32(1)}))
    said = call(place, capsys, "--data", "evaluation", "--samples", "90", status=2)
    assert "every layer in float: the metric does not accept the engine's outputs" in said


def test_a_lost_output_fails(place, capsys, monkeypatch):
    monkeypatch.setattr(FakeEngine, "spoil", staticmethod(lambda outputs, profile: {}))
    said = call(place, capsys, "--min-sqnr-db", "15", status=2)
    assert "every layer in float: the engine has no output 'logits'" in said


def test_wrong_words_are_refused(place, capsys):
    said = call(place, capsys, "--command", "true", "--allow-code", status=2)
    assert "--on engine builds engines" in said
    assert invoke(["bisect", str(place / "r.toml"), "--on", "engines"]) == 2
    assert "'engine'" in capsys.readouterr().err
    assert invoke(["bisect", str(place / "r.toml"), "--precision", "int8"]) == 2
    assert "--precision is 'int8'" in capsys.readouterr().err
