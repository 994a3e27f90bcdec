"""What a run must never do: write over its inputs, find a stale result again, run code unasked, obey a name's escapes."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from PIL import Image

from tests.conftest import build, node, normal
from tests.toolkit.conftest import GOOD, complain, model, rewrite
from toolkit import Model, Recipe, run
from toolkit.base.errors import NotAllowedError, QtoolError
from toolkit.base.files import PART, atomic_path
from toolkit.base.modules import module_file, module_fingerprint
from toolkit.base.text import plain, toml_string
from toolkit.cli.main import invoke
from toolkit.graph.files.header import model_files, read_header
from toolkit.graph.files.onnx_file import write
from toolkit.graph.proto.light import LightModel
from toolkit.report.codes import ReportCode
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.steps.device import skipped
from toolkit.run.steps.engine import EngineStep
from toolkit.run.steps.evaluation import EvaluationStep
from toolkit.run.steps.lowering import LoweringStep
from toolkit.run.steps.passes import PassesStep
from toolkit.run.steps.report import ReportStep, RunRecords
from toolkit.run.steps.task import TaskStep

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def done(place, **settings):
    """What became of each step of another run, and why."""
    result = run(place / "recipe.toml", place / "out", **settings)
    return {step.name: (step.status, step.why) for step in result.steps}


# ---------------------------------------------------------------- writing over inputs


def test_a_run_never_writes_over_the_model_beside_its_recipe(place, capsys):
    before = files(place)
    said = complain(place, capsys, "run", str(place / "recipe.toml"), "--out", str(place))
    assert "the model" in said and "model.onnx" in said and "--out" in said
    assert files(place) == before and not (place / ".qtool").exists()


CLASHES = {
    "ranges": ('data = "data.npz"', 'data = "data.npz"\nranges = "out/ranges.json"', "out/ranges.json"),
    "timing cache": ('backend = "none"', 'backend = "none"\ntiming_cache = "out/model.engine"', "out/model.engine"),
    "hidden": ('data = "data.npz"', 'data = "out/.qtool/data.npz"', "out/.qtool/data.npz"),
    "evaluation": ('[engine]', '[evaluation]\ndata = "out/report.json"\n[engine]', "out/report.json"),
    "earlier result": ('path = "model.onnx"', 'path = "out/model.onnx"', "out/model.onnx"),
    "build log": ('data = "data.npz"', 'data = "data.npz"\ncollection = "out/build.log"', "out/build.log"),
    "weights of an earlier result": ('data = "data.npz"', 'data = "out/model.onnx.0123456789abcdef.data"', "out/model.onnx.0123456789abcdef.data"),
}  # fmt: skip


@pytest.mark.parametrize("case", CLASHES)
def test_no_input_lies_where_the_run_writes(place, capsys, case):
    old, new, name = CLASHES[case]
    rewrite(place, old, new)
    (place / name).parent.mkdir(parents=True)
    shutil.copy(place / "data.npz", place / name)
    before = files(place)
    assert "--out" in complain(place, capsys)
    assert files(place) == before


def test_links_to_inputs_and_data_around_the_run_folder_are_refused(place, capsys):
    (place / "out").mkdir()
    (place / "out" / "model.onnx").symlink_to(place / "model.onnx")
    assert "overwrite" in complain(place, capsys)
    (place / "out" / "report.json").symlink_to(place / "data.npz")
    (place / "out" / "model.onnx").unlink()
    assert f"the run would overwrite it as {place / 'out' / 'report.json'}" in complain(place, capsys)
    (place / "out" / "report.json").unlink()
    (place / "out" / "model.onnx").symlink_to(place / "model.onnx")
    # the other way round: the recipe names a link that the run would replace
    rewrite(place, '"model.onnx"', '"out/model.onnx"')
    assert "overwrite" in complain(place, capsys)
    rewrite(place, '"out/model.onnx"', '"model.onnx"')
    (place / "out" / "model.onnx").unlink()
    rewrite(place, '"data.npz"', '"."')
    assert "change its own input" in complain(place, capsys)


def test_external_weights_are_inputs(place, capsys):
    (place / "sub").mkdir()
    onnx.save_model(
        model(), str(place / "sub" / "other.onnx"), save_as_external_data=True, location="build.log", size_threshold=0
    )
    rewrite(place, "model.onnx", "sub/other.onnx")
    before = files(place)
    said = complain(place, capsys, "run", str(place / "recipe.toml"), "--out", str(place / "sub"))
    assert "the model's weights" in said and "build.log" in said
    words = ["new", str(place / "sub" / "other.onnx"), "--out", str(place / "sub" / "build.log"), "--force"]
    assert "weights" in complain(place, capsys, *words)
    assert files(place) == before


def test_a_timing_cache_is_not_the_model(place, capsys):
    rewrite(place, 'backend = "none"', 'backend = "none"\ntiming_cache = "model.onnx"')
    before = files(place)
    assert "timing_cache a file of its own" in complain(place, capsys)
    assert files(place) == before


@pytest.mark.parametrize("victim", ["model.onnx", "data.npz", "test.npz"])
def test_new_never_writes_over_what_it_reads(place, capsys, victim):
    shutil.copy(place / "data.npz", place / "test.npz")
    before = files(place)
    words = ["new", str(place / "model.onnx"), "--data", str(place / "data.npz"), "--test", str(place / "test.npz")]
    assert "destroy" in complain(place, capsys, *words, "--out", str(place / victim), "--force")
    assert files(place) == before
    assert "folder" in complain(place, capsys, *words, "--out", str(place), "--force")


# ---------------------------------------------------------------- large models


def test_weights_apart_are_named_by_content_and_the_old_ones_go(tmp_path, monkeypatch):
    monkeypatch.setattr("toolkit.graph.proto.light.PROTOBUF_LIMIT", 0)
    path = tmp_path / "model.onnx"

    def save(seed):
        proto = build(
            [node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 64]}, {"y": ["n", 64]}, {"w": normal(64, 64, seed=seed)}
        )
        write(LightModel.of(proto), path)
        return Model.load(path).graph.nodes[0].inputs[1].values

    one = save(1)
    first = model_files(path)
    assert len(first) == 2 and np.array_equal(one, normal(64, 64, seed=1))
    before = path.read_bytes()
    (tmp_path / "model.onnx.data").write_bytes(b"not ours")
    assert np.array_equal(save(2), normal(64, 64, seed=2))
    second = model_files(path)
    assert second[1] != first[1] and path.read_bytes() != before
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["model.onnx", "model.onnx.data", second[1].name])


def test_a_killed_writing_leaves_the_old_pair_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("toolkit.graph.proto.light.PROTOBUF_LIMIT", 0)
    path = tmp_path / "model.onnx"
    protos = [
        build([node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 64]}, {"y": ["n", 64]}, {"w": normal(64, 64, seed=s)})
        for s in (1, 2)
    ]
    write(LightModel.of(protos[0]), path)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("toolkit.graph.files.onnx_file.write_parts", stop)
        with pytest.raises(KeyboardInterrupt):
            write(LightModel.of(protos[1]), path)
    assert np.array_equal(Model.load(path).graph.nodes[0].inputs[1].values, normal(64, 64, seed=1))


@pytest.fixture
def large(place, monkeypatch):
    """As if every model were above the limit of one protobuf message."""
    weights = {"w": normal(64, 3, 3, 3)}
    onnx.save(
        build(
            [node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
            {"x": ["n", 3, "h", "w_"]},
            {"y": ["n", 64, "h", "w_"]},
            weights,
        ),
        str(place / "model.onnx"),
    )
    monkeypatch.setattr("toolkit.graph.proto.light.PROTOBUF_LIMIT", 0)
    monkeypatch.setattr("toolkit.graph.files.onnx_file._APART", 16)
    return place


def test_a_data_file_that_was_zeroed_is_noticed_and_other_weights_make_another_engine(large):
    run(large / "recipe.toml", large / "out")
    (data,) = (large / "out").glob("model.onnx.*.data")
    (prepared,) = (large / "out" / ".qtool").glob("prepared.onnx.*.data")
    assert {s for s, _ in done(large).values()} == {"reused"}
    for path in (data, prepared):
        before = path.read_bytes()
        path.write_bytes(bytes(len(before)))
        assert "changed or removed" in " ".join(why for _, why in done(large).values())
        assert path.read_bytes() == before
    proto = onnx.load(str(large / "model.onnx"))
    other = normal(64, 3, 3, 3, seed=9)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(other, "w"))
    onnx.save(proto, str(large / "model.onnx"))
    assert {s for s, _ in done(large).values()} == {"done"}
    assert not data.exists() and len(list((large / "out").glob("model.onnx.*.data"))) == 1


# ---------------------------------------------------------------- keys


METRIC = """
class Share:
    higher_is_better = True
    def update(self, outputs, labels):
        pass
    def value(self):
        return {value}
"""


def test_the_code_of_a_metric_and_what_it_imports_are_part_of_the_key(place):
    np.savez(place / "test.npz", x=normal(6, 3, 4, 4), label=np.zeros(6, np.int64))
    (place / "scores.py").write_text("from amount import VALUE\n" + METRIC.format(value="VALUE"))
    (place / "amount.py").write_text("VALUE = 0.5\n")
    (place / "recipe.toml").write_text(GOOD + '[evaluation]\ndata = "test.npz"\nmetric = "scores:Share"\n')
    assert run(place / "recipe.toml", place / "out", allow_code=True).report.accuracy.quantized == 0.5
    assert done(place, allow_code=True)["evaluation"][0] == "reused"
    (place / "amount.py").write_text("VALUE = 0.7\n")
    again = run(place / "recipe.toml", place / "out", allow_code=True)
    assert "metric code" in next(s.why for s in again.steps if s.name == "evaluation")
    assert again.report.accuracy.quantized == 0.7
    (place / "scores.py").write_text(METRIC.format(value=0.9))
    assert run(place / "recipe.toml", place / "out", allow_code=True).report.accuracy.quantized == 0.9


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('data = "data.npz"', 'data = "data.npz"\noutside = "skip"', "how data is read"),
        ("max = [8, 3, 8, 8]", "max = [8, 3, 8, 9]", "profiles"),
    ],
)
def test_how_data_is_read_and_the_profiles_are_part_of_the_evaluations_key(place, old, new, why):
    done(place)
    rewrite(place, old, new)
    assert why in done(place)["evaluation"][1]


def test_how_images_become_samples_is_part_of_the_evaluations_key(place):
    (place / "images").mkdir()
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(place / "images" / f"{seed}.png")
    rewrite(place, 'data = "data.npz"', 'data = "images"\nimages = { size = [8, 8] }')
    done(place)
    rewrite(place, "size = [8, 8]", "size = [8, 8], scale = 0.5")
    assert "how data is read" in done(place)["evaluation"][1]


def test_external_weights_of_any_size_are_part_of_every_key(place):
    onnx.save_model(model(), str(place / "model.onnx"), save_as_external_data=True, location="w.bin", size_threshold=0)
    done(place)
    assert {s for s, _ in done(place).values()} == {"reused"}
    (place / "w.bin").write_bytes(normal(4, 3, 1, 1, seed=5).tobytes())
    found = done(place)
    assert "model" in found["passes"][1] and "float" in found["evaluation"][1]


def test_a_header_reads_no_file_outside_the_models_folder(place):
    proto = model()
    tensor = proto.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    for location in ("/", "..", "../data.npz", "/etc/passwd", "a\0b"):
        del tensor.external_data[:]
        tensor.external_data.add(key="location", value=location)
        (place / "model.onnx").write_bytes(proto.SerializeToString())
        header = read_header(place / "model.onnx")
        assert header is not None and header.external == () and header.inputs == ("x",) and header.outputs == ("y",)


def test_the_report_is_made_again_where_anything_in_it_changes(place):
    done(place)
    data = dict(np.load(place / "data.npz"))
    # other bytes, the same samples: only the fingerprint changes
    with open(place / "data.npz", "wb") as stream:
        np.savez_compressed(stream, x=data["x"])
    assert done(place)["report"][0] == "done"
    lock = tomllib.loads((place / "out" / "recipe.lock.toml").read_text())["lock"]["fingerprints"]
    from toolkit.base.files import sha256_file

    assert lock["calibration_data"] == sha256_file(place / "data.npz")


def report_key(place):
    inputs = Inputs(Job(Recipe.load(place / "recipe.toml"), RunFolder(place / "out")))
    task = TaskStep(inputs).load()
    passes = PassesStep(inputs, task).load()
    lowering = LoweringStep(inputs, passes).load()
    engine, evaluation = (
        EngineStep(inputs, passes, lowering).load(),
        EvaluationStep(inputs, task, passes, lowering).load(),
    )
    without = skipped(ReportCode.DEVICE_CHECK_OFF())
    found = RunRecords(task, passes, lowering, engine, None, None, None, evaluation, without)
    return ReportStep(inputs, found, []).key()


@pytest.mark.parametrize("name", ["ranges.json", "layers.json", "model.onnx"])
def test_every_file_that_the_report_reads_is_in_its_key(place, name):
    run(place / "recipe.toml", place / "out")
    before = report_key(place)
    (place / "out" / name).write_bytes(b"{}")
    assert report_key(place) != before


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("passes", {"journal": [{"kind": "noted", "by": "x", "rule": "own-words", "values": {"text": "y"}}]}),
        ("lowering", {"journal": [{"kind": "noted", "by": "x", "rule": "own-words", "values": {"text": "y"}}]}),
        ("lowering", {"plan": {}}),
        ("engine", {"reason": {"code": "engine-backend-requested", "values": {}}}),
        ("evaluation", {"held_out": False}),
        ("task", {"task": "ctc"}),
    ],
)
def test_every_record_that_the_report_reads_is_in_its_key(place, name, change):
    run(place / "recipe.toml", place / "out")
    before, path = report_key(place), place / "out" / ".qtool" / f"{name}.json"
    content = json.loads(path.read_text())
    assert set(change) <= set(content)
    path.write_text(json.dumps({**content, **change}))
    assert report_key(place) != before


@pytest.mark.parametrize("name", ["search.json", "faster.json"])
def test_what_an_interrupted_search_left_is_not_taken_for_this_runs(place, name):
    (place / "out" / ".qtool").mkdir(parents=True)
    (place / "out" / name).write_text("{}")
    report = run(place / "recipe.toml", place / "out").report
    assert report.search is None and not (place / "out" / name).exists()


def installed_elsewhere(folder, version="1.0"):
    """A distribution of another name with a pass that looks at the evaluation's data."""
    module = folder / "their_pass.py"
    module.write_text(
        "from toolkit import Pass\nclass Theirs(Pass):\n    def apply(self, model, context):\n        pass\n"
    )
    # older than this process, as what is installed is: which version of a newer file was loaded may be unknown
    os.utime(module, (1e9, 1e9))
    info = folder / "theirs-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: theirs\nVersion: {version}\n")
    (info / "entry_points.txt").write_text("[qtool.passes]\ntheirs = their_pass:Theirs\n")


def test_installed_passes_of_others_count_with_version_code_and_evaluation(place, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("site")
    installed_elsewhere(folder)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    rewrite(place, 'use = "insert_qdq"', 'use = "insert_qdq"\n[[pass]]\nuse = "theirs"')
    done(place)
    assert done(place)["passes"][0] == "reused"
    installed_elsewhere(folder, "1.1")
    importlib.invalidate_caches()
    assert "pass code" in done(place)["passes"][1]
    (folder / "their_pass.py").write_text((folder / "their_pass.py").read_text() + "# other\n")
    assert "pass code" in done(place)["passes"][1]
    (place / "recipe.toml").write_text(
        (place / "recipe.toml").read_text() + "[evaluation]\nbudget = { min_sqnr_db = 1.0 }\n"
    )
    assert "services" in done(place)["passes"][1]
    sys.modules.pop("their_pass", None)


def test_qtools_own_passes_that_do_not_evaluate_are_not_done_again_for_a_budget(place):
    done(place)
    (place / "recipe.toml").write_text(GOOD + "[evaluation]\nbudget = { min_sqnr_db = 1.0 }\n")
    assert done(place)["passes"][0] == "reused"


# ---------------------------------------------------------------- code


EVIL = 'from pathlib import Path\nPath(__file__).with_name("ran").write_text("")\n'


@pytest.mark.parametrize(
    "change",
    [
        ('"data.npz"', '"evil.sub:load"'),
        ('"insert_qdq"', '"evil.sub:Pass"'),
        ('[engine]', '[evaluation]\nmetric = "evil.sub:Metric"\n[engine]'),
        ('[engine]', '[evaluation]\ndata = "evil.sub:load"\n[engine]'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["run", "check", "calibrate"])
def test_no_code_runs_before_it_is_allowed(place, capsys, monkeypatch, change, command):
    (place / "evil").mkdir()
    (place / "evil" / "__init__.py").write_text(EVIL)
    (place / "evil" / "sub.py").write_text(EVIL)
    rewrite(place, *change)
    monkeypatch.syspath_prepend(str(place))
    words = ["--out", str(place / "out")] if command != "check" else []
    said = complain(place, capsys, command, str(place / "recipe.toml"), *words)
    assert "--allow-code" in said and "recipe.toml:" in said
    assert not (place / "evil" / "ran").exists() and "evil" not in sys.modules
    assert not (place / "out").exists()


def test_a_fingerprint_imports_nothing(place, monkeypatch):
    (place / "wicked" / "deep").mkdir(parents=True)
    (place / "wicked" / "__init__.py").write_text(EVIL)
    (place / "wicked" / "deep" / "one.py").write_text("from . import two\n")
    (place / "wicked" / "deep" / "two.py").write_text("")
    monkeypatch.syspath_prepend(str(place))
    assert module_file("wicked.deep.one") == (place / "wicked" / "deep" / "one.py").resolve()
    first = module_fingerprint("wicked.deep.one")
    (place / "wicked" / "deep" / "two.py").write_text("changed = 1\n")
    assert module_fingerprint("wicked.deep.one") != first
    assert module_fingerprint("wicked.deep.none") == "wicked.deep.none" and module_fingerprint("a..b") == "a..b"
    assert not (place / "wicked" / "ran").exists() and "wicked" not in sys.modules


def test_a_data_file_that_is_named_like_code_is_data(place):
    (place / "data.npz").rename(place / "mine:data")
    recipe = Recipe.parse(GOOD.replace("data.npz", "mine:data"), place / "recipe.toml")
    from toolkit.run.checks.preflight import code_allowed
    from toolkit.run.job import Job

    job = Job(recipe, RunFolder(place / "out"))
    code_allowed(job)
    (place / "mine:data").unlink()
    with pytest.raises(NotAllowedError):
        code_allowed(job)


# ---------------------------------------------------------------- the run folder


def test_forgetting_a_step_removes_nothing_outside_the_folder(place):
    (place / "precious.txt").write_text("dear")
    folder = RunFolder(place / "out")
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "kept").write_text("dear")
    with folder:
        (place / "out" / "own").write_text("")
        (place / "out" / "link").symlink_to(place / "elsewhere")
        names = [
            "../precious.txt",
            str(place / "precious.txt"),
            "link/kept",
            "own",
            "",
            ".",
            "a\0b",
            "../out/../precious.txt",
        ]
        manifest = {"passes": {"key": "k", "files": dict.fromkeys(names, "0")}, "odd": 3, "odder": {"files": ["own"]}}
        (folder.hidden / "steps.json").write_text(json.dumps(manifest))
        assert folder.find("odd", {}) == (False, "not done before")
        folder.forget("passes", "odd", "odder")
    assert (place / "precious.txt").exists() and (place / "elsewhere" / "kept").exists()
    assert not (place / "out" / "own").exists()


def test_a_step_keeps_why_it_was_done(place):
    done(place)
    rewrite(place, 'data = "data.npz"', 'data = "data.npz"\nmethod = "minmax"')
    done(place)
    assert "calibration method" in json.loads((place / "out" / ".qtool" / "steps.json").read_text())["passes"]["why"]


def test_only_qtools_own_temporary_files_are_cleared_away(place):
    folder = place / "out"
    (folder / ".qtool").mkdir(parents=True)
    mine = [folder / ".download.part", folder / ".notes.abc.part", folder / "x.qtool-part"]
    for path in mine:
        path.write_text("dear")
    with pytest.raises(KeyboardInterrupt), atomic_path(folder / "report.json") as temporary:
        assert temporary.name.endswith(PART)
        raise KeyboardInterrupt
    left = [folder / f".report.json.abc{PART}", folder / ".qtool" / f".steps.json.abc{PART}"]
    for path in left:
        path.write_text("")
    with RunFolder(folder):
        pass
    assert all(path.exists() for path in mine) and not any(path.exists() for path in left)


def test_a_pass_cannot_own_files_elsewhere(place):
    with RunFolder(place / "out") as folder, pytest.raises(QtoolError, match="outside the run folder"):
        folder.store("passes", {}, [place / "data.npz"])


# ---------------------------------------------------------------- names


NASTY = "a\x1b[31mred\x1b]0;title\x07\x7f\u202e\u2028\x9b"


def test_escape_sequences_of_names_do_not_reach_the_terminal(place, capsys):
    proto = model()
    proto.graph.node[0].name = NASTY
    proto.graph.output[0].name = proto.graph.node[1].output[0] = NASTY + "y"
    onnx.save(proto, str(place / "model.onnx"))
    assert invoke(["inspect", str(place / "model.onnx")]) == 0
    assert invoke(["inspect", str(place / "model.onnx"), "--json"]) == 0
    assert invoke(["check", str(place / "recipe.toml")]) == 0
    rewrite(place, '"insert_qdq"', '"insert_qdq"\nexclude = ["ared"]')
    assert invoke(["run", str(place / "recipe.toml"), "--out", str(place / "out")]) == 2
    (place / "no\x1b[31m.onnx").write_bytes(b"")
    assert invoke(["inspect", str(place / "no\x1b[31m.onnx")]) == 2
    printed = capsys.readouterr()
    assert "\\u001b[31mred" in printed.out
    for text in (printed.out, printed.err):
        assert not {"\x1b", "\x07", "\u202e", "\u2028", "\x9b"} & set(text)


def test_progress_lines_show_control_characters(capsys):
    from toolkit.base.progress import Terminal
    from toolkit.report.schema.report import StepInfo

    with Terminal() as terminal:
        terminal.step(StepInfo(name="passes", status="done", seconds=0.1, why="a\x1b[31m was changed"))
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["m😀.onnx", "m\x7f.onnx", 'm"q\\.onnx', "m\u202e\U000e0001.onnx", "m\n\t.onnx"])
def test_new_writes_toml_whatever_the_name(place, capsys, name):
    shutil.move(place / "model.onnx", place / name)
    target = place / "fresh.toml"
    assert invoke(["new", str(place / name), "--data", str(place / "data.npz"), "--out", str(target)]) == 0
    assert Recipe.load(target).model.path == name
    assert invoke(["check", str(target)]) == 0
    assert not {"\x7f", "\u202e"} & set(capsys.readouterr().out)


def test_new_quotes_the_names_of_inputs(place, capsys):
    proto = build([node("Relu", ["x😀\x7f.y"], ["y"])], {"x😀\x7f.y": ["n", 4]}, {"y": ["n", 4]})
    onnx.save(proto, str(place / "model.onnx"))
    assert invoke(["new", str(place / "model.onnx"), "--out", str(place / "fresh.toml")]) == 0
    assert list(Recipe.load(place / "fresh.toml").profile[0].shapes) == ["x😀\x7f.y"]


def test_a_name_that_is_no_text_is_refused(place, capsys):
    try:
        shutil.move(place / "model.onnx", place / os.fsdecode(b"m\xff.onnx"))
    except OSError:
        pytest.skip("this file system takes text only")
    said = complain(place, capsys, "new", str(place / os.fsdecode(b"m\xff.onnx")), "--out", str(place / "f.toml"))
    assert "UTF-8" in said and not (place / "f.toml").exists()


def test_toml_strings_read_back():
    for text in (NASTY, "", "'''", '"""', "\\u0041", "\t\r\n", "é😀", "\x00"):
        assert tomllib.loads(f"k = {toml_string(text)}")["k"] == text
    assert plain("é😀 x") == "é😀 x"


def test_what_another_program_wrote_is_not_written_over(place, capsys):
    out, recipe = str(place / "out"), str(place / "recipe.toml")
    parts = [str(place / f"{part}.npz") for part in (1, 2)]
    for part, file in enumerate(parts, 1):
        assert invoke(["calibrate", recipe, "--shard", f"{part}/2", "--out", file]) == 0
    assert invoke(["run", recipe, "--out", out]) == 0
    for name, words in {
        "mine/model.onnx": ["run", recipe, "--out", str(place / "mine")],
        "second/search.json": ["sensitivity", recipe, "--out", str(place / "second")],
        "mine.npz": ["calibrate", recipe, "--out", str(place / "mine.npz")],
        "whole.npz": ["merge", *parts, "--out", str(place / "whole.npz")],
        "notes.toml": ["merge", *parts, "--out", str(place / "notes.toml")],
        "page.html": ["compare", out, out, "--html", str(place / "page.html")],
        "elsewhere/model.onnx": ["export", out, "--to", "polygraphy", "--out", str(place / "elsewhere")],
        "elsewhere/model_qdq.onnx": ["export", out, "--to", "onnxruntime", "--out", str(place / "elsewhere")],
    }.items():
        file = place / name
        file.parent.mkdir(exist_ok=True)
        np.savez(file, x=np.zeros(3)) if name == "whole.npz" else file.write_text("<title>mine</title>")
        before = file.read_bytes()
        capsys.readouterr()
        said = complain(place, capsys, *words)
        who = "no export that this run folder knows of wrote" if words[0] == "export" else "qtool did not write"
        assert said.startswith(f"qtool: {file}: {who} this file") and "ove it away, or give" in said
        assert file.read_bytes() == before
        assert complain(place, capsys, *words) == said, "the refusal left something that lets the next call through"
        file.unlink()
        for _ in range(2):
            assert invoke(words) == 0, name


def test_an_export_that_was_changed_is_not_written_over(place, capsys):
    out, elsewhere = str(place / "out"), place / "elsewhere"
    assert invoke(["run", str(place / "recipe.toml"), "--out", out]) == 0
    for to in ("polygraphy", "onnxruntime", "polygraphy"):
        assert invoke(["export", out, "--to", to, "--out", str(elsewhere)]) == 0
    (elsewhere / "build.sh").write_text("my own flags")
    capsys.readouterr()
    said = complain(place, capsys, "export", out, "--to", "polygraphy", "--out", str(elsewhere))
    assert "build.sh: no export that this run folder knows of wrote this file" in said
    assert (elsewhere / "build.sh").read_text() == "my own flags"


def test_a_page_of_an_earlier_release_may_be_written_over(place):
    assert invoke(["run", str(place / "recipe.toml"), "--out", str(place / "out")]) == 0
    page, ranges = place / "c.html", str(place / "out" / "ranges.json")
    page.write_text('<!doctype html><html lang="en"><meta charset="utf-8"><title>Ranges compared</title><p>old')
    assert (
        invoke(["compare", ranges, ranges, "--html", str(page)]) == 0 and "Ranges compared · qtool" in page.read_text()
    )


@pytest.mark.parametrize("name", ["notes.txt", "other.npz", "random.bin", "other.engine"])
def test_a_timing_cache_is_not_a_file_of_another_kind(place, capsys, name):
    shutil.copy(place / "data.npz", place / "other.npz")
    (place / "notes.txt").write_text("my notes")
    (place / "random.bin").write_bytes(bytes(range(256)))
    (place / "other.engine").write_bytes(b"ftrt" + bytes(96))
    rewrite(place, 'backend = "none"', f'backend = "none"\ntiming_cache = "{name}"')
    before = files(place)
    for command in ("run", "check"):
        said = complain(place, capsys, command, str(place / "recipe.toml"))
        assert (
            f"{name}: qtool did not write this file" in said and "Give [engine] timing_cache a file of its own" in said
        )
    assert files(place) == before
    (place / name).write_bytes(b"ptrtd" + bytes(200))
    assert invoke(["check", str(place / "recipe.toml")]) == 0


def test_a_file_that_is_there_but_empty_may_be_written(place):
    (place / "made_by_mktemp.npz").touch()
    assert invoke(["calibrate", str(place / "recipe.toml"), "--out", str(place / "made_by_mktemp.npz")]) == 0
