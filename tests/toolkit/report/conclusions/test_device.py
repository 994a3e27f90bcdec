"""What the run on the GPU does to the verdict, the first line, the terminal and the page."""

from __future__ import annotations

import pytest

from tests.toolkit.report.engine_samples import device, measured, network, payoff
from tests.toolkit.report.page.test_render import Page
from tests.toolkit.report.samples import HOSTILE, sample
from toolkit.report.codes import ReportCode
from toolkit.report.conclusions.advice import advice
from toolkit.report.conclusions.device import device_warnings, failure
from toolkit.report.conclusions.headline import headline
from toolkit.report.conclusions.verdict import verdict
from toolkit.report.findings.outputs.accuracy import source_words
from toolkit.report.page.html import render_html
from toolkit.report.schema.report import DeviceInfo, LayerError, Report
from toolkit.report.terminal.report import to_text

FAILED = DeviceInfo(status="failed", gpu="NVIDIA H200", why="profile 'batch': the engine failed: misaligned address.")
NO_GPU = DeviceInfo(status="skipped", why="this machine has no GPU to run the engine")


def first_line(simulated, ran):
    return headline(network()[0], simulated, ran)


def test_an_engine_that_keeps_the_budget_too_is_said_in_passing():
    line = first_line(measured(), device(measured(0.979)))
    assert line.startswith("Usable: top1 0.980 against 0.985 float (drop 0.5 points, budget 1); on the GPU 0.979; ")
    assert verdict(measured(), device(measured(0.979))) == "usable"


def test_an_engine_that_misses_what_the_simulation_kept_has_missed():
    ran = device(measured(0.94, False))
    assert verdict(measured(), ran) == "missed"
    assert first_line(measured(), ran).startswith(
        "MISSED ITS BUDGET on the GPU: top1 0.940 against 0.985 float (drop 4.5 points, budget 1); simulated 0.980; "
    )


def test_a_simulation_that_missed_stays_missed_whatever_the_engine_does():
    assert verdict(measured(0.9, False), device()) == "missed"
    assert first_line(measured(0.9, False), device()).startswith("MISSED ITS BUDGET: top1 0.900")


SIMULATED = "accuracy is simulated, not measured on an engine"


@pytest.mark.parametrize("simulated", [measured(), measured(0.9, False), measured(0.3, False)])
def test_the_first_line_says_where_no_engine_was_measured(simulated):
    """Nobody shall take what onnxruntime simulates for the engine's own accuracy."""
    for without in (None, NO_GPU):
        assert first_line(simulated, without).endswith(f"; {SIMULATED}.")
    for ran in (device(measured(0.979)), device(measured(0.3, False)), FAILED):
        assert SIMULATED not in first_line(simulated, ran)
    # that the result is one in onnxruntime is said already
    assert SIMULATED not in headline(network()[0], simulated, None, refused="tensorrt_rtx")
    assert SIMULATED not in first_line(None, None)


def test_figures_say_whether_they_were_simulated():
    said = {
        "onnxruntime": "simulated in onnxruntime",
        "the engine on NVIDIA H200": "measured by the engine on NVIDIA H200",
    }
    for source, words in said.items():
        assert source_words(measured().model_copy(update={"source": source})) == words
        report = sample().model_copy(update={"accuracy": measured().model_copy(update={"source": source})})
        assert words in " ".join(to_text(report).split()) and words in " ".join(render_html(report).split())
    assert source_words(measured().model_copy(update={"source": ""})) == ""


@pytest.mark.parametrize(
    ("ran", "words"),
    [
        (device(measured(0.3, False)), "BROKEN: on the GPU in profile 'single', top1 fell from 0.985 to 0.300; do not deploy."),
        (device(measured(), single=measured(), batch=measured(0.2, False)), "BROKEN: on the GPU in profile 'batch', top1 fell"),
        (device(measured(), single=measured(sqnr_db=None, max_abs=None, samples=2)),
         "BROKEN: on the GPU in profile 'single', output 'logits' holds NaN or infinity"),
        (FAILED, "BROKEN: the engine failed on its own GPU (NVIDIA H200): profile 'batch': the engine failed: misaligned address. "),
    ],
)  # fmt: skip
def test_a_broken_engine_is_broken_in_the_first_line(ran, words):
    assert verdict(measured(), ran) == "broken"
    assert first_line(measured(), ran).startswith(words)


def test_a_profile_that_is_broken_is_named_where_the_model_itself_was_not_compared():
    """Neither onnxruntime nor the engine could be held against the output of a node that only TensorRT runs."""
    partly = {"metric": None, "before": None, "quantized": None, "met": None, "not_compared": ["boxes"]}
    own = measured().model_copy(update=partly)
    ran = device(own, single=measured(sqnr_db=None, max_abs=None, samples=2))
    line = first_line(own.model_copy(), ran)
    assert verdict(own, ran) == "broken" and line.startswith("BROKEN: on the GPU in profile 'single', output 'logits'")


def test_two_samples_do_not_break_a_profile():
    ran = device(measured(), single=measured(0.5, False, before=1.0, samples=2), batch=measured())
    assert verdict(measured(), ran) == "usable"


def test_no_run_changes_nothing_and_warns_only_where_a_gpu_is():
    assert verdict(measured(), NO_GPU) == "usable" and verdict(None, NO_GPU) == "unmeasured"
    assert first_line(measured(), NO_GPU) == first_line(measured(), None)
    assert device_warnings(NO_GPU) == []
    other = NO_GPU.model_copy(update={"gpu": "NVIDIA H200", "why": "it is built for 8.9"})
    assert device_warnings(other) == [ReportCode.ENGINE_NOT_RUN(gpu="NVIDIA H200", why="it is built for 8.9")]
    assert device_warnings(FAILED) == [] and failure(FAILED) and not failure(NO_GPU) and not failure(None)


def test_an_engine_broken_and_slow_is_broken_first():
    line = headline(network()[0], measured(), FAILED, payoff(0.690, 0.579))
    assert line.startswith("BROKEN") and "SLOWER than FP16" in line


def with_engine(**changes):
    content = sample().to_json()
    content["device"], content["payoff"] = (
        device().model_dump(mode="json", by_alias=True),
        payoff().model_dump(mode="json"),
    )
    return Report.from_json({**content, **changes})


def test_report_json_keeps_it(tmp_path):
    with_engine().save(tmp_path / "report.json")
    again = Report.load(tmp_path / "report.json")
    assert again.device == device() and again.payoff == payoff()


def test_terminal_shows_numbers_time_and_what_does_not_pay():
    text = to_text(with_engine(), width=140)
    assert "Engine on the GPU (NVIDIA H200): 100 samples" in text
    rows = [line.split() for line in text.splitlines() if line.strip().startswith(("single", "batch", "all "))]
    assert [row[:3] for row in rows if "logits" in row] == [
        ["single", "100", "0.98"],
        ["batch", "100", "0.98"],
        ["all", "100", "0.98"],
    ]
    assert "Latency at the opt shapes, ms, against the unquantized model in FP16" in text
    assert "0.769" in text and "0.040 in 2" in text and "Slower quantized than in FP16: 1 of 3 layer groups" in text
    failed = to_text(with_engine(device=FAILED.model_dump(mode="json")))
    assert "Engine on the GPU (NVIDIA H200): FAILED" in failed and "misaligned address" in failed


def test_page_shows_the_same():
    page = render_html(with_engine())
    Page(page)
    for words in ("On the GPU", "run on NVIDIA H200 with 100 samples", "Did quantization pay?", "Against the unquantized model in FP16",
                  "too little to pay for the conversions", "0.040 ms in 2 Q/DQ kernels", "a note on the samples"):  # fmt: skip
        assert words in page, words
    assert page.count("NVIDIA H200") >= 1 and 'class="banner usable"' in page
    slow = with_engine(payoff=payoff(0.690, 0.579).model_dump(mode="json"))
    assert 'class="banner missed"' in render_html(slow)
    assert "The engine failed on NVIDIA H200: profile" in render_html(
        with_engine(device=FAILED.model_dump(mode="json"))
    )
    assert "Where the time goes" not in render_html(sample())


def test_hostile_names_stay_text():
    ran = device().model_dump(mode="json", by_alias=True)
    ran |= {"gpu": HOSTILE[0], "profiles": dict.fromkeys(HOSTILE, ran["accuracy"]), "notes": HOSTILE}
    paid = payoff(0.690, 0.579).model_dump(mode="json")
    compared = paid["against"]["fp16"]
    for group in compared["groups"]:
        group |= {
            "name": HOSTILE[0],
            "why": HOSTILE[1],
            "times": {HOSTILE[0]: group["times"]["p"]},
            "worst": HOSTILE[0],
        }
    compared["profiles"], paid["overhead"] = (
        {HOSTILE[0]: compared["profiles"]["p"]},
        {HOSTILE[0]: paid["overhead"]["p"]},
    )
    report = with_engine(device=ran, payoff=paid)
    page = render_html(report)
    assert "img" not in Page(page).tags and "\x1b" not in page
    text = to_text(report)
    assert "[red]not red[/red]" in text and "\x1b" not in text


def test_what_to_try_follows_the_engine_where_it_does_worse_than_the_simulation():
    layers, report = network()[0], sample()
    blamed = next(
        one for one in layers if one.role == "compute" and one.asked_precision and one.asked_precision.quantized
    )
    blamed.error = LayerError(sqnr_db=5.0, max_abs=1.0, drop_db=20.0)

    def tried(ran):
        found = advice(layers, measured(), report.backend, [], None, device=ran)
        (keep,) = [one.finding.values for one in found if one.finding.code is ReportCode.KEEP_LAYERS]
        return keep

    assert tried(device(measured(0.94, False)))["usable"] is False
    for fine in (device(measured(0.979)), FAILED, None):
        assert tried(fine)["usable"] is True and tried(fine)["count"] == 1
