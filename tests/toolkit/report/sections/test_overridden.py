"""Why a node runs in another precision than asked, as far as the cause is known, and what to do."""

from __future__ import annotations

import pytest

from tests.conftest import build, node, normal
from toolkit.backends.codes import EngineCode
from toolkit.backends.layers.layer import Actual, Build
from toolkit.base.precision import Precision
from toolkit.base.profiles import Profiles
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.contract.plan import PrecisionPlan
from toolkit.graph.model import Model
from toolkit.report.codes import ReportCode
from toolkit.report.explain import explain, explanation_text
from toolkit.report.findings import sentence
from toolkit.report.join import join
from toolkit.report.schema.report import RecipeInfo
from toolkit.report.sections.describe import model_info
from toolkit.report.sections.found import EngineFound, Graphs, Measurements, Requests
from toolkit.report.sections.overridden import cause_of, remedy_of

READS_FLOAT = EngineCode.RUNS_IN(
    precision="fp16",
    why=EngineCode.KERNEL_READS_FLOAT(promised=EngineCode.INPUTS_QUANTIZED(by=("a",)), types=("fp16",)),
)


@pytest.mark.parametrize(
    ("op", "backend", "known"),
    [("ConvTranspose", "tensorrt_rtx", True), ("Conv", "tensorrt_rtx", False), ("ConvTranspose", "tensorrt", False)],
)
def test_a_kernel_that_a_backend_lacks_is_the_cause(op, backend, known):
    found = cause_of(READS_FLOAT, op, backend)
    assert found == (ReportCode.BACKEND_HAS_NO_KERNEL(backend=backend, op=op) if known else None)
    assert cause_of(EngineCode.RUNS_IN(precision="fp16", why=EngineCode.NO_INPUT_QUANTIZED()), op, backend) is None


@pytest.mark.parametrize(
    ("why", "remedy"),
    [
        (READS_FLOAT, ReportCode.DO_EXCLUDE_FLOAT_KERNEL()),
        (EngineCode.RUNS_IN(precision="fp16", why=EngineCode.NO_INPUT_QUANTIZED()), ReportCode.DO_PLACE_PAIRS()),
        (EngineCode.RUNS_IN(precision="fp16", why=EngineCode.PART_OF_KERNEL(layer="l", node="n")), ReportCode.DO_ASK_HOST(node="n")),
        (EngineCode.RUNS_IN(precision="int8", why=EngineCode.CONSTRAINT_NOT_KEPT(kernel="k")), ReportCode.DO_OBEY()),
        (Code.FLOAT_RANGE(why="7e4"), ReportCode.DO_WIDER_TYPE()),
        (EngineCode.SEE_BRANCHES(), None),
        (None, None),
    ],
)  # fmt: skip
def test_what_helps_follows_from_the_cause(why, remedy):
    assert remedy_of(why) == remedy


def test_the_pass_to_exclude_a_layer_in_is_the_one_that_asked():
    """A recipe that searches has no pass that merely inserts pairs."""
    assert sentence(remedy_of(READS_FLOAT, "search_precision")).startswith("exclude it in search_precision: its pairs")
    assert sentence(remedy_of(READS_FLOAT)).startswith("exclude it in insert_qdq: its pairs")


def test_the_report_and_explain_say_both():
    model = Model.from_proto(
        build(
            [node("ConvTranspose", ["x", "w"], ["y"])],
            {"x": [1, 3, 4, 4]},
            {"y": [1, 4, 4, 4]},
            {"w": normal(3, 4, 1, 1)},
        )
    )
    (name,) = [one.name for one in model.nodes]
    plan = PrecisionPlan()
    plan.by = "insert_qdq"
    plan.ask(name, Precision.INT8, Code.OWN_WORDS(text="asked"))
    report = join(
        Requests(RecipeInfo(name="r"), plan, Journal()),
        Graphs(model, model_info(model, Profiles(), path="m.onnx"), Profiles(), None, None, None),
        EngineFound(
            Build("tensorrt_rtx", "1.7"),
            {name: Actual(Precision.FP16, status="overridden", reason=READS_FLOAT, source="tactic")},
            EngineCode.BACKEND_REQUESTED(), "strong", 8,
        ),
        Measurements({}, None, None, None),
    )  # fmt: skip
    (layer,) = report.layers
    cause, remedy = cause_of(READS_FLOAT, "ConvTranspose", "tensorrt_rtx"), sentence(remedy_of(READS_FLOAT))
    assert layer.reason.endswith(sentence(cause)) and layer.remedy == remedy
    said = ReportCode.LAYERS_OVERRIDDEN(count=1, node=name, why=layer.reason, remedy=remedy)
    assert sentence(said) in report.summary.warnings
    assert remedy in explanation_text(explain(report, name))
