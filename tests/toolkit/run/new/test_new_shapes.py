"""The profile of a new recipe, and profiles that contradict the names of the model's dimensions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from tests.toolkit.conftest import complain
from toolkit.cli.main import invoke
from toolkit.report.codes import ReportCode
from toolkit.report.findings import sentence
from toolkit.run.recipe.new_profile import fixed_by_samples, profile_lines, two_sizes
from toolkit.run.recipe.recipe import Recipe

LAYERS, HIDDEN = 2, 8


@pytest.fixture
def stream(tmp_path):
    """A convolution over time whose state shares N with its samples, and members of both kinds of storage."""
    proto = build(
        [
            node("Conv", ["x", "w"], ["c"], pads=[1, 1]),
            node("Transpose", ["c"], ["t"], perm=[2, 0, 1]),
            node("LSTM", ["t", "wi", "wr", "", "", "h", "cell"], ["o", "h_out", "c_out"], hidden_size=HIDDEN, direction="bidirectional"),
            node("Transpose", ["o"], ["p"], perm=[0, 2, 1, 3]),
            node("Reshape", ["p", "flat"], ["r"]),
            node("MatMul", ["r", "v"], ["y"]),
        ],
        {"x": ["N", 4, "T"], "h": [LAYERS, "N", HIDDEN], "cell": [LAYERS, "N", HIDDEN]},
        {"y": None, "h_out": None, "c_out": None},
        {
            "w": normal(6, 4, 3), "wi": normal(2, 4 * HIDDEN, 6, seed=1), "wr": normal(2, 4 * HIDDEN, HIDDEN, seed=2),
            "flat": np.array([0, 0, -1], np.int64), "v": normal(16, 3, seed=3),
        },
    )  # fmt: skip
    onnx.save(proto, str(tmp_path / "model.onnx"))
    return tmp_path


def recipe(folder, *words):
    out = folder / "made.toml"
    assert invoke(["new", str(folder / "model.onnx"), "--out", str(out), "--force", *map(str, words)]) == 0
    return Recipe.load(out)


def feeds(count, length=6, seed=0):
    return {
        "x": normal(count, 4, length, seed=seed), "h": normal(LAYERS, count, HIDDEN, seed=seed + 1),
        "cell": normal(LAYERS, count, HIDDEN, seed=seed + 2),
    }  # fmt: skip


def test_inputs_that_share_a_name_share_its_extent(stream, capsys):
    np.savez(stream / "data.npz", **feeds(12))
    made = recipe(stream, "--data", stream / "data.npz")
    shapes = made.profile[0].shapes
    assert [shapes["x"][end][0] for end in ("min", "opt", "max")] == [1, 8, 32]
    for state in ("h", "cell"):
        assert shapes[state] == {"min": [2, 1, 8], "opt": [2, 8, 8], "max": [2, 32, 8]}
    assert invoke(["check", str(stream / "made.toml")]) == 0
    assert "calibration: 10 samples" in capsys.readouterr().out


def test_a_profile_that_contradicts_a_name_is_refused(stream, capsys, monkeypatch):
    monkeypatch.chdir(stream)
    np.savez(stream / "data.npz", **feeds(12))
    made = recipe(stream, "--data", stream / "data.npz")
    text = (stream / "made.toml").read_text()
    wrong = text.replace("shapes.h = { min = [2, 1, 8], opt = [2, 8, 8], max = [2, 32, 8] }", "shapes.h = { min = [2, 1, 8], opt = [2, 1, 8], max = [2, 1, 8] }")  # fmt: skip
    assert wrong != text and len(made.profile) == 1
    (stream / "made.toml").write_text(wrong)
    for command in ("check", "run"):
        said = complain(stream, capsys, command, str(stream / "made.toml"))
        for word in (
            "made.toml:8",
            "dimension 'N'",
            "1 to 32 (opt 8) in input 'x'",
            "1 to 1 (opt 1) in input 'h'",
            "same min",
        ):
            assert word in said, said


def test_profiles_come_from_calibration_and_test_data(stream, capsys):
    np.savez(stream / "data.npz", **feeds(6, length=6))
    np.savez(stream / "test.npz", **feeds(6, length=9, seed=20))
    made = recipe(stream, "--data", stream / "data.npz", "--test", stream / "test.npz")
    shape = made.profile[0].shapes["x"]
    assert (shape["min"][2], shape["max"][2]) == (6, 9)
    assert invoke(["check", str(stream / "made.toml")]) == 0
    only = recipe(stream, "--test", stream / "test.npz").profile[0].shapes["x"]
    assert (only["min"][2], only["max"][2]) == (9, 9)


def extents(shapes, seen=None):
    text = "[model]\npath = 'm.onnx'\n" + "\n".join(profile_lines(shapes, seen or {}))
    return {name: tuple(zip(*one.values())) for name, one in Recipe.parse(text).profile[0].shapes.items()}


def test_without_samples_a_name_has_one_guess():
    found = extents({"image": ["N", 3, "H", "W"], "mask": ["N", "H", "W"], "ids": ["N", "L"]})
    assert found["mask"] == (found["image"][0], *found["image"][2:])
    assert found["ids"][0] == found["image"][0] == (1, 8, 32)


def test_samples_of_any_input_tell_of_a_name():
    found = extents({"a": ["N", "L"], "b": ["N", "L"]}, {"a": [(1, 5)], "b": [(1, 7), (1, 6)]})
    assert found["a"] == found["b"] == ((1, 8, 32), (5, 6, 7))


DECODER = {"ids": ["B", "new"], "mask": ["B", "past + new"], "past": ["B", 4, "past", 8]}


def test_a_dimension_called_after_others_has_the_size_that_they_make():
    """The first pass over a prompt and steps of one token: medians of each by itself made 3 + 4 = 6."""
    steps = [(6, 0), (1, 4), (1, 9), (3, 2)] * 3
    seen = {
        "ids": [(1, new) for new, _ in steps], "mask": [(1, new + past) for new, past in steps],
        "past": [(1, 4, past, 8) for _, past in steps],
    }  # fmt: skip
    found = extents(DECODER, seen)
    assert (found["ids"][1], found["past"][2]) == ((1, 3, 6), (0, 2, 9)) and found["mask"][1] == (1, 5, 15)
    # without samples too, and where the name does not say so the opt shapes are those of one sample
    guessed = extents(DECODER)
    assert guessed["mask"][1] == tuple(a + b for a, b in zip(guessed["ids"][1], guessed["past"][2]))
    unsaid = extents({**DECODER, "mask": ["B", "total"]}, seen)
    assert unsaid["mask"][1] == (5, 5, 10) and unsaid["ids"][1][1] + unsaid["past"][2][1] == 5


@pytest.mark.parametrize(("name", "opt"), [("2*L", 10), ("L // 2", 2), ("(L + 1) * 3", 18), ("L - 7", 4), ("L+M", 4)])
def test_the_formula_of_a_name(name, opt):
    seen = {"a": [(1, 3), (1, 5), (1, 6)], "b": [(1, opt)] * 3}
    assert extents({"a": ["N", "L"], "b": ["N", name]}, seen)["b"][1][1] == opt


def test_an_opt_that_contradicts_the_name_is_a_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    proto = build(
        [node("Concat", ["a", "b"], ["c"], axis=1), node("Add", ["c", "both"], ["s"]), node("MatMul", ["s", "w"], ["y"])],
        {"a": ["N", "past", 4], "b": ["N", "new", 4], "both": ["N", "past + new", 4]}, {"y": ["N", "t", 3]},
        {"w": normal(4, 3)},
    )  # fmt: skip
    onnx.save(proto, "model.onnx")
    lengths = [(6, 1), (2, 3), (4, 1), (1, 8)] * 3
    stored = {
        f"{name}/{i:05d}": normal(1, size, 4, seed=i)
        for i, (past, new) in enumerate(lengths)
        for name, size in (("a", past), ("b", new), ("both", past + new))
    }
    np.savez("data.npz", **stored)
    assert invoke(["new", "model.onnx", "--data", "data.npz", "--out", "made.toml"]) == 0
    text = Path("made.toml").read_text()
    assert invoke(["check", "made.toml"]) == 0
    opt = tuple(Recipe.load("made.toml").profile[0].shapes[name]["opt"][1] for name in ("a", "b", "both"))
    assert opt in {(past, new, past + new) for past, new in lengths}
    wrong = text.replace(f"opt = [8, {opt[2]}, 4]", "opt = [8, 8, 4]")
    assert wrong != text and opt[2] != 8
    Path("made.toml").write_text(wrong)
    capsys.readouterr()
    assert invoke(["check", "made.toml"]) == 0
    assert f"has opt 8 in dimension 1 of 'both', whose name 'past + new' gives {opt[2]} from" in capsys.readouterr().out


def test_samples_that_contradict_a_name_are_taken(tmp_path, monkeypatch, capsys):
    """A decoder's first step: a past of length 1 that a branch leaves out, and a mask as long as the tokens."""
    monkeypatch.chdir(tmp_path)
    nodes = [node("ReduceMean", ["past"], ["m"], axes=[1]), node("Mul", ["ids", "mask"], ["masked"]),
             node("MatMul", ["masked", "w"], ["s"]), node("Add", ["s", "m"], ["y"])]  # fmt: skip
    inputs = {"ids": ["N", "new", 4], "past": ["N", "past", 4], "mask": ["N", "past + new", 1]}
    onnx.save(build(nodes, inputs, {"y": ["N", "t", 4]}, {"w": normal(4, 4)}), "model.onnx")
    stored = {
        f"{name}/{i:05d}": normal(1, size, width, seed=i)
        for i, new in enumerate([3, 5, 6, 4] * 3)
        for name, size, width in (("ids", new, 4), ("past", 1, 4), ("mask", new, 1))
    }
    np.savez("data.npz", **stored)
    assert invoke(["new", "model.onnx", "--data", "data.npz", "--out", "made.toml"]) == 0
    assert invoke(["check", "made.toml"]) == 0
    assert "whose name 'past + new' gives" in capsys.readouterr().out


TEXT, PICTURE = {"ids": ["N", "L"], "mask": ["N", "L"]}, {"image": ["N", 3, "H", "W"]}


def texts(*lengths):
    return {name: [(1, length) for length in lengths] for name in TEXT}


def pictures(*sizes):
    return {"image": [(1, 3, size, size) for size in sizes]}


@pytest.mark.parametrize(
    ("shapes", "seen", "small", "large"),
    [
        (PICTURE, pictures(*[320] * 4, *[1280] * 4), (320, 320, 320), (1280, 1280, 1280)),
        (PICTURE, pictures(640, 320, 640, 320), (320, 320, 320), (640, 640, 640)),
        (TEXT, texts(5, 300, 12, 450, 30, 500, 9), (5, 12, 30), (300, 450, 500)),
    ],
    ids=["a detector's sizes", "twice the size", "short and long texts"],
)
def test_sizes_in_two_groups_have_a_profile_each(shapes, seen, small, large):
    text = "[model]\npath = 'm.onnx'\n" + "\n".join(profile_lines(shapes, seen))
    made = Recipe.parse(text).profile
    assert [one.name for one in made] == ["small", "large"]
    last = [
        {name: tuple(extent[end][-1] for end in ("min", "opt", "max")) for name, extent in one.shapes.items()}
        for one in made
    ]
    assert last == [dict.fromkeys(shapes, small), dict.fromkeys(shapes, large)]
    assert all(extent["max"][0] == 32 for one in made for extent in one.shapes.values())
    found = two_sizes(shapes, seen)
    assert (found.values["small"][-1], found.values["large"][-1]) == (small[::2], large[::2])


@pytest.mark.parametrize(
    ("shapes", "seen"),
    [
        (TEXT, texts(5, 7, 12, 20, 31, 45, 60, 110, 200, 480)),
        (TEXT, texts(*range(5, 30), 500)),
        (TEXT, texts(5, 500)),
        (PICTURE, pictures(*[320] * 4, *[512] * 4)),
        (TEXT, texts(16)),
        (TEXT, {}),
        ({"x": ["N", 8]}, {"x": [(1, 8)] * 4 + [(64, 8)] * 4}),
    ],
    ids=[
        "all lengths",
        "one alone",
        "two samples",
        "less than twice the size",
        "one sample",
        "no samples",
        "the batch",
    ],
)
def test_other_sizes_have_one_profile(shapes, seen):
    assert two_sizes(shapes, seen) is None
    assert sum(line == "[[profile]]" for line in profile_lines(shapes, seen)) == 1


def test_a_new_recipe_has_two_profiles_and_says_what_lies_between(stream, capsys):
    for name, lengths in (("data", (6, 60)), ("test", (7, 62))):
        samples = [feeds(1, lengths[i % 2], seed=i) for i in range(12)]
        np.savez(stream / f"{name}.npz", **{f"{n}/{i:05d}": v for i, one in enumerate(samples) for n, v in one.items()})
    made = recipe(stream, "--data", stream / "data.npz", "--test", stream / "test.npz")
    said = capsys.readouterr().out
    assert [(one.name, one.shapes["x"]["min"][2], one.shapes["x"]["max"][2]) for one in made.profile] == [
        ("small", 6, 7), ("large", 60, 62)]  # fmt: skip
    assert "two groups of sizes along 'T' (6 to 7, or 60 to 62)" in said and "raise max of 'small'" in said
    assert invoke(["check", str(stream / "made.toml")]) == 0


def test_where_an_input_has_no_axis_of_samples_they_run_one_by_one():
    shapes = {"x": [None, 16, None], "h": [2, None, 24]}
    found = extents(shapes, {"x": [(1, 16, 9)], "h": [(2, 1, 24)]})
    assert found == {"x": ((1, 1, 1), (16, 16, 16), (9, 9, 9)), "h": ((2, 2, 2), (1, 1, 1), (24, 24, 24))}


@pytest.mark.parametrize(
    ("lengths", "fixed"),
    [((6, 6), {"dimensions": ("T",), "sizes": (6,), "inputs": ("x",)}), ((6, 9), None)],
)
def test_a_dynamic_dimension_that_no_sample_varies_is_said(stream, capsys, lengths, fixed):
    """The batch N is not one, though all samples are stored alike: profiles give it a range of their own."""
    for name, length in zip(("data", "test"), lengths):
        np.savez(stream / f"{name}.npz", **feeds(12, length))
    made = recipe(stream, "--data", stream / "data.npz", "--test", stream / "test.npz")
    said, text = capsys.readouterr().out, (stream / "made.toml").read_text()
    assert [made.profile[0].shapes["x"][end][2] for end in ("min", "max")] == [min(lengths), max(lengths)]
    if fixed is None:
        assert "one size" not in said and "one size" not in text
        return
    warning = sentence(ReportCode.NEW_SIZES_FIXED(**fixed))
    assert f"Warning: {warning}" in said and "widen min and max of shapes.x" in warning
    comment = " ".join(line[2:] for line in text.split("[[profile]]")[0].splitlines() if line.startswith("# "))
    assert comment == warning


def test_pasts_of_one_length_are_named_together():
    """An empty one too: an engine for it never takes what a decoder hands on."""
    past = ["batch", 2, "past", 4]
    shapes = {"ids": ["batch", "tokens"], "k": past, "v": past, "free": ["batch", None]}
    seen = {"ids": [(1, 5), (1, 7)], "k": [(1, 2, 0, 4)] * 2, "v": [(1, 2, 0, 4)] * 2, "free": [(1, 3)] * 2}
    found = fixed_by_samples(shapes, seen)
    assert found == ReportCode.NEW_SIZES_FIXED(dimensions=["past", "free[1]"], sizes=[0, 3], inputs=["k", "v", "free"])
    assert fixed_by_samples(shapes, {}) is None and fixed_by_samples({"x": [3, 4]}, {"x": [(3, 4)]}) is None
