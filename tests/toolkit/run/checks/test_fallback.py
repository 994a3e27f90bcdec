"""Where the backend that ``auto`` took cannot build the model, the next one does, and the report tells all of it."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.conftest import build, node, normal
from tests.toolkit.report.samples import accuracy
from tests.toolkit.run.checks.test_check_says import INSERT, alike, small
from toolkit import run
from toolkit.backends import choose as choosing
from toolkit.backends.codes import EngineCode
from toolkit.backends.none import NoBackend
from toolkit.backends.processes.process import ProcessDiedError
from toolkit.base.errors import BackendError
from toolkit.cli.main import invoke
from toolkit.report.conclusions.headline import headline
from toolkit.report.findings import sentence
from toolkit.run.checks.dry_run import dry_run
from toolkit.run.preview import preview

HAS_RTX = importlib.util.find_spec("tensorrt_rtx") is not None


class Refusing(NoBackend):
    """A backend that builds nothing: its parser refuses every model, or its builder does.

    Attributes:
        asked: how often each was asked.
    """

    name = "tensorrt_rtx"

    def __init__(self, refuses, error):
        self.refuses, self.error, self.asked = refuses, error, {"parse": 0, "build": 0}

    def version(self):
        return "1.7"

    def parse(self, *given):
        self._asked("parse")

    def build(self, *given):
        self._asked("build")
        return super().build(*given)

    def _asked(self, what):
        self.asked[what] += 1
        if what == self.refuses:
            raise self.error


@pytest.fixture
def refusing(monkeypatch):
    """Makes ``auto`` take a backend that refuses, after which there is none."""
    real = choosing.choose

    def make(refuses, error):
        backend = Refusing(refuses, error)

        def choose(name="auto"):
            return real(name) if name == "none" else (backend, EngineCode.BACKEND_CHOSEN(gpu=None, refused=()))

        for place in ("toolkit.backends.choose.choose", "toolkit.run.pipeline.choose"):
            monkeypatch.setattr(place, choose)
        monkeypatch.setattr(choosing, "usable", lambda name: (None, BackendError("it is not installed")))
        return backend

    return make


def test_auto_falls_back_to_the_next_backend_and_says_so_each_time(tmp_path, refusing):
    backend = refusing("parse", BackendError("its parser knows no MatMul", remedy="use another"))
    recipe = small(tmp_path, [INSERT], engine={"backend": "auto"})
    said = sentence(
        EngineCode.BACKEND_REFUSES_MODEL(backend="tensorrt_rtx", why="its parser knows no MatMul", taken="none")
    )
    checked = dry_run(recipe)
    assert checked.backend == "none (see the warnings)" and f"{said}. Use another." in checked.warnings
    assert checked.to_text().count(said) == 1
    for parsed in (2, 2):
        report = run(recipe, tmp_path / "run").report
        assert (report.backend.name, report.backend.reason) == ("none", said) and said in report.summary.warnings
        # a rehearsal that is found again brings its answer
        assert backend.asked["parse"] == parsed
    named = small(tmp_path, [INSERT], engine={"backend": "tensorrt_rtx"})
    assert alike(named, tmp_path / "named") == "its parser knows no MatMul"


def test_what_onnxruntime_runs_in_float32_alone_is_said_to_be_exported():
    told = {one: headline([], accuracy("usable").model_copy(update={"refused": one}), refused="tensorrt_rtx")
            for one in (False, True)}  # fmt: skip
    assert told[False].startswith("Usable in onnxruntime only, since tensorrt_rtx cannot build the model: top1 ")
    assert told[True].startswith("Usable in onnxruntime only (as `qtool export` writes it), since tensorrt_rtx cannot")


@pytest.mark.parametrize("refused", ["build", "parse", None])
def test_the_first_line_says_that_no_engine_can_be_built(tmp_path, refusing, refused):
    """Figures within the budget were called usable without a word on it, as those of trees of ai.onnx.ml."""
    refusing(refused or "build", BackendError("its parser knows no TreeEnsembleRegressor"))
    proto = build(
        [node("Conv", ["x", "w"], ["y"])], {"x": ["n", 3, 8, 8]}, {"y": ["n", 2, 6, 6]}, {"w": normal(2, 3, 3, 3)}
    )
    evaluation = {"data": str(tmp_path / "test.npz"), "task": "regression"}
    recipe = small(tmp_path, [INSERT], proto, engine={"backend": "auto" if refused else "none"}, evaluation=evaluation)
    np.savez(tmp_path / "test.npz", x=normal(320, 3, 8, 8))
    told = run(recipe, tmp_path / "run").report.summary
    where = " in onnxruntime only, since tensorrt_rtx cannot build the model" if refused else ""
    assert told.verdict == "usable", told.headline
    assert told.headline.startswith(f"Usable{where}: ")


@pytest.mark.parametrize("dies", [False, True])
def test_what_the_builder_alone_refuses_ends_with_a_report_that_has_the_remedy(tmp_path, refusing, capsys, dies):
    kind = ProcessDiedError if dies else BackendError
    backend = refusing("build", kind("no kernel runs 'nms'", remedy="cut it off"))
    recipe, out = small(tmp_path, [INSERT], engine={"backend": "auto"}), tmp_path / "run"
    said = "'auto' falls back to none, since tensorrt_rtx cannot build the model: no kernel runs 'nms'"
    ran = run(recipe, out)
    assert (ran.report.backend.name, ran.report.backend.reason) == ("none", said)
    assert said in ran.report.summary.warnings and (out / "model.onnx").exists() and (out / "report.html").exists()
    (advice,) = [one.text for one in ran.report.summary.next if "tensorrt_rtx" in one.text]
    assert "model.onnx with its Q/DQ pairs runs in ONNX Runtime" in advice and "cut it off" in advice
    # each step is in the report once, by the backend that there is
    assert [step.name for step in ran.steps].count("lowering") == 1

    # what it refused it refuses again, while a crash may have passed: that is tried again
    assert invoke(["run", str(recipe.path), "--out", str(out)]) == 0
    assert backend.asked["build"] == 1 + dies and capsys.readouterr().out.count(said) == 1
    if not dies:
        assert {step.fate for step in preview(recipe, out).steps} == {"kept"}
        # a warning belongs to the engine that is found again, whatever is done anew
        again = run(small(tmp_path, [INSERT], engine={"backend": "auto"}, report={"formats": ["json"]}), out)
        assert backend.asked["build"] == 1 and said in again.report.summary.warnings
        # another model may be built
        plain = run(small(tmp_path, [], engine={"backend": "auto"}), out)
        assert backend.asked["build"] == 2
        assert any("model.onnx runs in ONNX Runtime" in one.text for one in plain.report.summary.next)


def test_what_tensorrt_said_of_a_failed_build_stays_in_the_log(tmp_path, refusing, monkeypatch):
    class Talking(Refusing):
        def build(self, *given):
            given[3](f"ERROR: no. {self.asked['build']}")
            return super().build(*given)

    backend = refusing("build", BackendError("no kernel runs 'nms'", remedy="see build.log"))
    backend.__class__ = Talking
    out, log = tmp_path / "run", tmp_path / "run" / "build.log"
    run(small(tmp_path, [INSERT], engine={"backend": "auto"}), out)
    assert log.read_text() == "ERROR: no. 0\n"
    # found again, and without it built once more
    run(small(tmp_path, [INSERT], engine={"backend": "auto"}, report={"formats": ["json"]}), out)
    assert backend.asked["build"] == 1 and log.read_text() == "ERROR: no. 0\n"
    log.unlink()
    run(small(tmp_path, [INSERT], engine={"backend": "auto"}, report={"formats": ["json", "html"]}), out)
    assert backend.asked["build"] == 2 and log.read_text() == "ERROR: no. 1\n"
    # nobody was refused a build here, and the log of another one is gone
    run(small(tmp_path, [INSERT], engine={"backend": "none"}), out)
    assert not log.exists()


@pytest.mark.parametrize("data", ["none", "summed", "foreign"])
def test_a_model_that_onnxruntime_does_not_run_is_not_said_to_run_there(tmp_path, refusing, data):
    """onnxruntime sums no float16 that is scattered to one place, and knows no operator of another's domain."""
    refusing("parse", BackendError("its parser knows no such node", remedy="cut it off"))
    if data == "none":
        recipe = small(tmp_path, [], engine={"backend": "auto"}, calibration={}, evaluation={})
    else:
        scattered = node("ScatterElements", ["x", "where", "h"], ["y"], name="last", axis=1, reduction="add")
        foreign = node("Magic", ["h"], ["y"], name="last", domain="com.acme")
        nodes = [node("MatMul", ["x", "w"], ["h"], name="product"), scattered if data == "summed" else foreign]
        weights = {"w": normal(8, 8), **({"where": np.zeros((1, 8), np.int64)} if data == "summed" else {})}
        proto = build(nodes, {"x": [1, 8]}, {"y": None}, weights, opset=18)
        proto.opset_import.add(domain="com.acme", version=1)
        recipe = small(tmp_path, [INSERT], proto, engine={"backend": "auto"})
    report = run(recipe, tmp_path / "run").report
    assert report.backend.name == "none" and (report.accuracy is None or report.accuracy.refused)
    (advice,) = [one.text for one in report.summary.next if "tensorrt_rtx" in one.text]
    assert advice == "For an engine of tensorrt_rtx: cut it off."


def test_a_backend_that_is_asked_for_by_name_refuses_with_its_own_words(tmp_path, refusing):
    refusing("build", BackendError("no kernel runs 'nms'", remedy="cut it off"))
    with pytest.raises(BackendError, match="no kernel runs 'nms'"):
        run(small(tmp_path, [INSERT], engine={"backend": "tensorrt_rtx"}), tmp_path / "run")


def suppressed():
    """Boxes and scores of a Conv, suppressed in the model."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), node("Reshape", ["c", "as"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[0, 2, 1]), node("Split", ["t", "parts"], ["b", "s0"], axis=2),
        node("Transpose", ["s0"], ["s"], perm=[0, 2, 1]),
        node("NonMaxSuppression", ["b", "s", "most", "iou", "least"], ["y"]),
    ]  # fmt: skip
    values = {
        "w": normal(6, 2, 3, 3), "as": np.array([1, 6, 64]), "parts": np.array([4, 2]), "most": np.array([8]),
        "iou": np.array([0.5], np.float32), "least": np.array([0.0], np.float32),
    }  # fmt: skip
    return build(nodes, {"x": [1, 2, 8, 8]}, {"y": ["n", 3]}, values, types={"y": TensorProto.INT64})


@pytest.mark.skipif(not HAS_RTX, reason="tensorrt_rtx is not installed")
def test_tensorrt_rtx_parses_non_maximum_suppression_but_has_no_kernel_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "find_gpu", lambda: None)
    proto = suppressed()
    onnx.checker.check_model(proto, full_check=True)
    name = proto.graph.node[-1].name
    report = run(small(tmp_path, [INSERT], proto, engine={"backend": "auto"}), tmp_path / "run").report
    # a release that has one builds the engine
    refused = report.backend.name == "none"
    assert refused == (f"at node '{name}' (layer NMS)" in report.backend.reason) == (not report.backend.engine_bytes)
    assert refused == any("has no kernel for it: cut it off the model" in one.text for one in report.summary.next)
