"""What goes wrong: every bad input gives one paragraph that names place and remedy, exit status 2, and no traceback."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.conftest import MODELS, normal
from tests.toolkit.conftest import GOOD, complain, model
from toolkit.cli.main import invoke


def test_the_good_recipe_runs(place, capsys):
    assert invoke(["run", str(place / "recipe.toml"), "--out", str(place / "out")]) == 0
    assert json.loads((place / "out" / "report.json").read_text())["summary"]["by_asked"]["int8"] >= 1


RECIPES = {
    "not TOML": (lambda t: t.replace('path = "model.onnx"', "path = "), ["not TOML", "line 2"]),
    "unknown table": (lambda t: t + "\n[engin]\nrest = 'fp16'\n", ["unknown key 'engin'", "engine"]),
    "unknown key": (lambda t: t.replace("backend =", "backand ="), ["recipe.toml:15", "engine.backand", "'backend'"]),
    "missing model": (lambda t: t.replace('path = "model.onnx"', ""), ["model.path", "missing"]),
    "wrong type": (lambda t: t + 'workspace_mb = "much"\n', ["workspace_mb", "'much'"]),
    "wrong word": (lambda t: t.replace('"none"', '"gpu"'), ["'gpu'", "tensorrt"]),
    "negative budget": (lambda t: t + "[evaluation]\nbudget = { max_drop = -1 }\n", ["max_drop", "-1"]),
    "unknown method": (lambda t: t.replace('data = "data.npz"', 'data = "data.npz"\nmethod = "median"'), ["'median'"]),
    "pass without use": (lambda t: t.replace('use = "insert_qdq"', 'dtype = "int8"'), ["use ="]),
    "unknown pass": (lambda t: t.replace("insert_qdq", "insert_qqd"), ["'insert_qqd'", "Did you mean 'insert_qdq'"]),
    "unknown setting": (lambda t: t.replace('"insert_qdq"', '"insert_qdq"\nexclud = ["c"]'), ["recipe.toml:13", "'exclud'", "'exclude'"]),
    "wrong setting": (lambda t: t.replace('"insert_qdq"', '"insert_qdq"\n# the type\ndtype = "int7"'), ["recipe.toml:14", "'int7'", "int8"]),
    "text for a number": (
        lambda t: t.replace('"insert_qdq"', '"search_precision"\nmargin = "much"'), ["recipe.toml:13", "margin", "'much'"],
    ),
    "pattern without match": (lambda t: t.replace('"insert_qdq"', '"insert_qdq"\nexclude = ["d"]'), ["recipe.toml:13", "'d' matches no node", "'c'"]),
    "pattern in a list of lines": (
        lambda t: t.replace('"insert_qdq"', '"insert_qdq"\nexclude = [\n  # no "/head/*"\n  "c",\n  "/head/*",\n]'), ["recipe.toml:16", "'/head/*'"],
    ),
    "pattern of the second pass": (
        lambda t: t.replace("[engine]", '[[pass]]\nuse = "keep_precision"\nnodes = ["cc"]\n\n[engine]'), ["recipe.toml:16", "'cc'", "'c'"],
    ),
    "op without match": (lambda t: t.replace('"insert_qdq"', '"insert_qdq"\nexclude_ops = ["Cov"]'), ["recipe.toml:13", "no such operator", "Conv"]),
    "between without path": (
        lambda t: t.replace('"insert_qdq"', '"insert_qdq"\nexclude_between = [["y", "x"]]'), ["recipe.toml:13", "no path leads from 'y' to 'x'"],
    ),
    "code not allowed": (lambda t: t.replace('"insert_qdq"', '"mine:Mine"'), ["--allow-code"]),
    "data code not allowed": (lambda t: t.replace('"data.npz"', '"mine:loader"'), ["--allow-code"]),
    "metric code not allowed": (lambda t: t + '[evaluation]\nmetric = "mine:Metric"\n', ["--allow-code"]),
    "unknown metric": (lambda t: t + '[evaluation]\nmetric = "top2"\n', ["'top2'", "top1"]),
    "min above max": (lambda t: t.replace("min = [1, 3, 4, 4]", "min = [9, 3, 4, 4]"), ["recipe.toml:6", "min 9", "max 8"]),
    "rank of profile": (lambda t: t.replace("opt = [2, 3, 4, 4]", "opt = [2, 3, 4]"), ["rank"]),
    "no opt": (lambda t: t.replace("opt = [2, 3, 4, 4], ", ""), ["no opt shape"]),
    "unknown input": (lambda t: t.replace("shapes.x", "shapes.image"), ["'image'", "'x'"]),
    "fixed dimension": (lambda t: t.replace("[1, 3, 4, 4]", "[1, 1, 4, 4]"), ["dimension 1", "fixes it at 3"]),
    "no samples": (lambda t: t.replace("[1, 3, 4, 4]", "[0, 3, 4, 4]").replace("[2, 3, 4, 4]", "[0, 3, 4, 4]"), ["recipe.toml:6", "0 samples", "'x'"]),
    "profile without a name": (lambda t: t.replace('"all"', '""'), ["recipe.toml:5", "name"]),
    "rank against model": (
        lambda t: t.replace("[1, 3, 4, 4]", "[1, 3, 4]").replace("[2, 3, 4, 4]", "[2, 3, 4]").replace("[8, 3, 8, 8]", "[8, 3, 8]"),
        ["3 dimensions", "4"],
    ),
    "two profiles of a name": (lambda t: t.replace("[calibration]", t[t.index("[[profile]]"): t.index("[calibration]")] + "[calibration]"),
                               ["two profiles are named 'all'"]),
    "no such model": (lambda t: t.replace("model.onnx", "modell.onnx"), ["no such model", "modell.onnx"]),
    "no such data": (lambda t: t.replace("data.npz", "date.npz"), ["no such data", "date.npz"]),
    "data and random": (lambda t: t.replace('"data.npz"', '"data.npz"\nrandom = { seed = 1 }'), ["both data and random"]),
    "manual range of no tensor": (lambda t: t.replace('"data.npz"', '"data.npz"\nmanual = { z = 1.0 }'), ["recipe.toml:10", "'z'"]),
    "method of no tensor": (lambda t: t.replace('"data.npz"', '"data.npz"\nmethods = { "/z/*" = "mse" }'), ["recipe.toml:10", "'/z/*'", "'x'"]),
    "unknown GPU": (lambda t: t.replace('"insert_qdq"', '"search_precision"\ngpu = "L99"'), ["recipe.toml:13", "'L99'", "'L4'"]),
    "manual range negative": (lambda t: t.replace('"data.npz"', '"data.npz"\nmanual = { x = -1.0 }'), ["-1.0"]),
    "weights of no profile": (lambda t: t.replace('"data.npz"', '"data.npz"\nweights = { big = 1.0 }'), ["'big'", "'all'"]),
    "memory": (lambda t: t.replace('"data.npz"', '"data.npz"\nmemory = "lots"'), ["'lots'", "2GB"]),
    "output of no tensor": (lambda t: t + '[evaluation]\nmetric = "top1"\noutput = "yy"\n', ["recipe.toml:18", "'yy'", "'y'"]),
    "nothing to compare with": (lambda t: t + 'compare = ["fp16"]\n', ["recipe.toml:16", "compare", "GPU"]),
    "profile named compare": (lambda t: t.replace('"all"', '"compare"') + 'compare = ["fp16"]\n', ["another name"]),
    "pattern that is a bracket": (lambda t: t.replace('"insert_qdq"', '"insert_qdq"\nexclude = ["["]'), ["recipe.toml:13", "'[' matches no node"]),
    "pattern that is empty": (lambda t: t.replace('"insert_qdq"', '"insert_qdq"\nexclude = [""]'), ["recipe.toml:13", "'' matches no node"]),
    "manual range of an empty name": (lambda t: t.replace('"data.npz"', '"data.npz"\nmanual = { "" = 1.0 }'), ["recipe.toml:10", "''"]),
    "no such ranges": (lambda t: t.replace('"data.npz"', '"data.npz"\nranges = "r.json"'), ["no such file", "r.json"]),
    "no such collection": (lambda t: t.replace('"data.npz"', '"data.npz"\ncollection = "c.npz"'), ["no such file", "c.npz"]),
    "collection of another kind": (lambda t: t.replace('"data.npz"', '"data.npz"\ncollection = "data.npz"'), ["collection", "data.npz"]),
    "io of no tensor": (lambda t: t + 'io = { z = "fp16" }\n', ["'z'"]),
    "no data for ranges": (lambda t: t.replace('data = "data.npz"', ""), ["recipe.toml:12: ", "calibration data"]),
    "no data for a search": (
        lambda t: t.replace('data = "data.npz"', "manual = { x = 4.0 }").replace('"insert_qdq"', '"search_precision"'), ["recipe.toml:12: ", "no samples to decide on"],
    ),
    "mask of no input": (lambda t: t.replace('"data.npz"', '"data.npz"\nmask = "m"'), ["recipe.toml:10", "mask 'm'", "'x'"]),
    "quantizer of no name": (
        lambda t: t.replace('"insert_qdq"', '"search_precision"\nquantizer = "insert_qd"'), ["recipe.toml:13", "no pass 'insert_qd'"],
    ),
    "times of no run": (
        lambda t: t.replace('"insert_qdq"', '"search_precision"\ntimes = "gone.json"'), ["recipe.toml:12", "no such file", "gone.json, a file of pass 1"],
    ),
    "a folder for ranges": (lambda t: t.replace('data = "data.npz"', 'ranges = "."'), ["recipe.toml:9", "[calibration] ranges is a folder"]),
    "a place that is none": (lambda t: t + '[run]\non = "there"\n', ["recipe.toml:17", "'run.on' is 'there': expected here, ray or ray://"]),
    "weak typing of none": (lambda t: t + 'compute_capabilities = ["ninety"]\n', ["ninety"]),
}  # fmt: skip


@pytest.mark.parametrize("case", RECIPES)
def test_wrong_recipes_are_refused_with_place_and_remedy(place, capsys, case):
    change, words = RECIPES[case]
    text = change(GOOD)
    assert text != GOOD
    (place / "recipe.toml").write_text(text)
    said = complain(place, capsys)
    for word in words:
        assert word in said, said


@pytest.mark.parametrize(
    "case", ["unknown metric", "output of no tensor", "io of no tensor", "nothing to compare with"]
)
def test_check_and_the_start_of_a_run_find_what_can_be_found_early(place, capsys, monkeypatch, case):
    from toolkit.run.steps.passes import PassesStep

    change, words = RECIPES[case]
    (place / "recipe.toml").write_text(change(GOOD))
    monkeypatch.setattr(PassesStep, "run", lambda self: pytest.fail("a step was begun"))
    for said in (complain(place, capsys), complain(place, capsys, "check", str(place / "recipe.toml"))):
        for word in words:
            assert word in said, said
        assert "recipe.toml:" in said


@pytest.mark.parametrize("case", ["unknown GPU", "pattern of the second pass", "op without match"])
def test_check_refuses_what_a_pass_refuses_in_a_run(place, capsys, case):
    change, words = RECIPES[case]
    (place / "recipe.toml").write_text(change(GOOD))
    said = complain(place, capsys, "check", str(place / "recipe.toml"))
    for word in words:
        assert word in said, said


def test_a_file_of_another_kind_is_called_by_its_name(place, capsys):
    assert (
        f"make a recipe: qtool new {place / 'model.onnx'}".lower()
        in complain(place, capsys, "check", str(place / "model.onnx")).lower()
    )
    said = complain(place, capsys, "merge", str(place / "data.npz"), "--out", str(place / "whole.npz"))
    assert "holds arrays, such as samples: 'x' [12, 3, 4, 4]" in said and "[calibration] data" in said


def big(value):
    data = normal(12, 3, 4, 4)
    data[2, 1, 0, 3] = value
    return {"x": data}


DATA = {
    "NaN": (lambda: big(np.nan), ["data.npz", "2", "'x'", "nan"]),
    "infinite": (lambda: big(np.inf), ["data.npz", "2", "'x'", "inf"]),
    "wrong name": (lambda: {"xx": normal(4, 3, 4, 4)}, ["'xx'", "'x'"]),
    "wrong rank": (lambda: {"x": normal(4, 3, 4)}, ["x"]),
    "wrong channel count": (lambda: {"x": normal(12, 5, 4, 4)}, ["5", "3"]),
    "wrong dtype": (lambda: {"x": np.array(["a"] * 4)}, ["x"]),
    "complex": (lambda: {"x": normal(4, 3, 4, 4).astype(np.complex64)}, ["complex"]),
    "outside the profile": (lambda: {"x": normal(12, 3, 9, 9)}, ["profile", "9"]),
    "empty": (lambda: {"x": normal(0, 3, 4, 4)}, ["no samples"]),
    "needs unpickling": (lambda: {"x": np.full((4, 3, 4, 4), None, dtype=object)}, ["pickle"]),
    "no number": (
        lambda: {"x": np.full((4, 3, 4, 4), "2020-01-01", "datetime64[D]")},
        ["datetime64[D]", "save it as float32"],
    ),
    "beyond the type": (
        lambda: {"x": np.full((4, 3, 4, 4), -1e300)},
        ["float32, which cannot hold -1e+300. Give values that float32 can hold"],
    ),
    "extra input": (lambda: {"x": normal(4, 3, 4, 4), "z": normal(4, 2)}, ["'z'"]),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_does_not_fit_is_refused_in_words(place, capsys, case):
    make, words = DATA[case]
    np.savez(place / "data.npz", **make())
    said = complain(place, capsys)
    for word in words:
        assert word.lower() in said.lower(), said


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize("key", ["calibration", "evaluation"])
def test_code_that_yields_nothing_is_refused_by_check_too(place, capsys, monkeypatch, command, key):
    monkeypatch.chdir(place)
    (place / f"of_{key}.py").write_text("def load():\n    yield from ()\n")
    text = GOOD + '[evaluation]\ndata = "data.npz"\n'
    lines = [line.replace("data.npz", f"of_{key}:load") if after else line for line, after in _by_table(text, key)]
    (place / "recipe.toml").write_text("\n".join(lines))
    said = complain(place, capsys, command, str(place / "recipe.toml"), "--allow-code")
    assert f"of_{key}:load: there are no samples. Give at least one" in said


def _by_table(text, table):
    inside = False
    for line in text.splitlines():
        inside = line == f"[{table}]" if line.startswith("[") else inside
        yield line, inside


def test_samples_that_were_all_left_out_are_said_to_be(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    np.savez(place / "data.npz", x=normal(12, 3, 9, 9))
    (place / "recipe.toml").write_text(GOOD.replace('"data.npz"', '"data.npz"\noutside = "skip"'))
    for command in ("check", "run"):
        said = complain(place, capsys, command, str(place / "recipe.toml"))
        assert "fits a profile, and outside = 'skip' leaves them out. Widen a profile, or" in said


@pytest.mark.parametrize("name", ["DATA.NPZ", "data.Npy"])
def test_endings_are_read_in_either_case(place, name):
    values = normal(12, 3, 4, 4)
    with (place / name).open("wb") as file:
        np.save(file, values) if name.endswith("Npy") else np.savez(file, x=values)
    (place / "recipe.toml").write_text(GOOD.replace("data.npz", name))
    assert invoke(["check", str(place / "recipe.toml")]) == 0


def test_a_folder_of_files_in_capitals_is_read_and_what_no_folder_holds_is_named(place, capsys):
    (place / "samples").mkdir()
    (place / "samples" / "notes.txt").write_text("x")
    (place / "recipe.toml").write_text(GOOD.replace("data.npz", "samples"))
    assert "but notes.txt. Save arrays as .npz, images as .png" in complain(place, capsys)
    for number in range(4):
        with (place / "samples" / f"{number}.NPY").open("wb") as file:
            np.save(file, normal(1, 3, 4, 4, seed=number))
    assert invoke(["check", str(place / "recipe.toml")]) == 0


def test_data_that_is_no_archive(place, capsys):
    (place / "data.npz").write_bytes(b"PK\x03\x04 not really")
    assert "data.npz" in complain(place, capsys)


def test_an_empty_data_folder(place, capsys):
    (place / "samples").mkdir()
    (place / "recipe.toml").write_text(GOOD.replace("data.npz", "samples"))
    assert "samples" in complain(place, capsys)


def external(place, location, length=None):
    proto = model()
    tensor = proto.graph.initializer[0]
    raw = tensor.raw_data
    (place / "w.bin").write_bytes(raw if length is None else raw[:length])
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value=str(len(raw)))
    (place / "model.onnx").write_bytes(proto.SerializeToString())


MODEL_FILES = {
    "empty": (lambda p: (p / "model.onnx").write_bytes(b""), ["empty"]),
    "garbage": (lambda p: (p / "model.onnx").write_bytes(os.urandom(200)), ["model.onnx"]),
    "cut short": (lambda p: (p / "model.onnx").write_bytes(model().SerializeToString()[:100]), ["model.onnx"]),
    "old opset": (lambda p: _with_opset(p, 7), ["opset 7", "9 to 25"]),
    "new opset": (lambda p: _with_opset(p, 26), ["opset 26", "9 to 25"]),
    "external data outside": (lambda p: external(p, "../w.bin"), ["'../w.bin'", "outside"]),
    "external data absolute": (lambda p: external(p, "/etc/passwd"), ["outside"]),
    "external data missing": (lambda p: external(p, "gone.bin"), ["'gone.bin'", "does not exist"]),
    "external data in a folder": (
        lambda p: external(p, ".git") or (p / ".git").mkdir(),
        ["tensor '", "this is a folder", "model.onnx"],
    ),
    "external data cut": (lambda p: external(p, "w.bin", 8), ["cut short"]),
    "output from nowhere": (lambda p: _with_output(p, "nowhere"), ["'nowhere'"]),
}


def _with_opset(place, version):
    proto = model()
    proto.opset_import[0].version = version
    (place / "model.onnx").write_bytes(proto.SerializeToString())


def _with_output(place, name):
    proto = model()
    proto.graph.output.append(helper.make_tensor_value_info(name, 1, [1]))
    (place / "model.onnx").write_bytes(proto.SerializeToString())


@pytest.mark.parametrize("case", MODEL_FILES)
def test_models_that_cannot_be_read_are_refused_in_words(place, capsys, case):
    change, words = MODEL_FILES[case]
    change(place)
    said = complain(place, capsys)
    for word in words:
        assert word in said, said


def test_paths_that_cannot_be(place, capsys):
    assert "no such recipe" in complain(place, capsys, "run", str(place / "none.toml"))
    (place / "file").write_text("")
    assert "is a file" in complain(place, capsys, "run", str(place / "recipe.toml"), "--out", str(place / "file"))
    assert "no such file" in complain(place, capsys, "inspect", str(place / "none.onnx"))
    assert "report.json" in complain(place, capsys, "inspect", str(place))
    assert "no schema" in complain(place, capsys, "schema", "car")
    assert "there is no pass" in complain(place, capsys, "passes", "inset_qdq")


def test_a_recipe_is_not_written_over(place, capsys):
    assert "--force" in complain(place, capsys, "new", str(place / "model.onnx"), "--out", str(place / "recipe.toml"))


def test_evaluation_without_labels(place, capsys):
    (place / "recipe.toml").write_text(GOOD + '[evaluation]\nmetric = "top1"\n')
    assert "label" in complain(place, capsys)


def test_inputs_are_never_changed(place, capsys):
    before = {p: p.read_bytes() for p in place.iterdir() if p.is_file()}
    for command in (["run", "recipe.toml", "--out", "out"], ["check", "recipe.toml"], ["inspect", "model.onnx"]):
        words = [str(place / w) if "." in w or w == "out" else w for w in command]
        assert invoke(words) == 0
    assert {p: p.read_bytes() for p in before} == before


def test_a_tensorrt_backend_that_is_not_here(place, capsys):
    if shutil.which("nvidia-smi"):
        pytest.skip("a GPU is here")
    (place / "recipe.toml").write_text(GOOD.replace('"none"', '"tensorrt"'))
    assert invoke(["run", str(place / "recipe.toml"), "--out", str(place / "out")]) == 3
    assert "tensorrt" in capsys.readouterr().err


def test_recipes_of_the_repository_check_out(capsys):
    for path in sorted((MODELS.parent / "recipes").glob("*_int8.toml")):
        assert invoke(["check", str(path)]) == 0
        assert "can run" in capsys.readouterr().out


def test_a_thing_of_another_kind_is_called_what_it_is(place, capsys):
    report, recipe, data = (str(place / name) for name in ("out/report.json", "recipe.toml", "data.npz"))
    assert invoke(["run", recipe, "--out", str(place / "out")]) == 0
    capsys.readouterr()
    for words in (
        ["explain", report],
        ["accuracy", report],
        ["time", recipe],
        ["export", recipe, "--to", "polygraphy"],
    ):
        said = complain(place, capsys, *words)
        assert "this is a file, not a run folder. Name the folder of a run" in said
    said = complain(place, capsys, "compare", data, data)
    assert f"{data}: it cannot be read as ranges: it is no text. Give ranges.json or a calibration cache" in said
    assert "this is a folder, not a recipe. Name the .toml file in it" in complain(place, capsys, "check", str(place))
    assert "no such model file. Check the path" in complain(place, capsys, "new", str(place / "gone.onnx"))
    (place / "recipe.toml").write_bytes(GOOD.encode("utf-16"))
    assert "byte 0 is not UTF-8 text. Save it as UTF-8" in complain(place, capsys)


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (["--min-sqnr-db", "-1"], "--min-sqnr-db is -1.0: it must be at least 0"),
        (["--max-drop", "nan"], "--max-drop is nan: expected a finite number"),
        (["--min-agreement", "2"], "--min-agreement is 2.0: it must be at most 1"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_in_words(place, capsys, limit, said):
    assert said in complain(place, capsys, "bisect", str(place / "recipe.toml"), "--out", str(place / "out"), *limit)
