"""Settings and options that have no effect beside others are refused, with place, value and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from passes.insert_qdq import InsertQDQ
from passes.search_precision import SearchPrecision
from passes.smooth import Smooth
from toolkit import Recipe
from toolkit.base.errors import RecipeError
from toolkit.base.schema import value_words
from toolkit.cli.main import invoke
from toolkit.run.recipe.passes import passes_of

MODEL = '[model]\npath = "m.onnx"\n'
SECTIONS = {
    "ranges_use": '[calibration]\nranges_use = "fill"\n',
    "device": '[calibration]\ncollection = "c.npz"\ndevice = "gpu"\n',
    "unlike": "[calibration]\nunlike = 3.0\n",
    "weights": "[[profile]]\nname = 'a'\nshapes = {}\n[calibration]\nweights = { a = 2.0 }\n",
    "percentile": '[calibration]\nmethod = "entropy"\npercentile = 99.9\n[[pass]]\nuse = "insert_qdq"\n',
    "images": '[calibration]\ndata = "c.npz"\nimages = { size = [8, 8] }\n[evaluation]\ndata = "m:load"\n',
    "hold_out": '[evaluation]\ndata = "t.npz"\nhold_out = 0.3\n',
    "space": '[evaluation]\nmetric = "cer"\nspace = 3\n',
    "calibrator": '[engine]\ncalibrator = "entropy2"\n',
    "calibration_profile": '[[profile]]\nname = "a"\nshapes = {}\n[engine]\ncalibration_profile = "a"\n',
    "constraints": '[engine]\ntyping = "strong"\nconstraints = "obey"\n',
    "compute_capabilities": '[engine]\nbackend = "tensorrt"\ncompute_capabilities = ["8.9"]\n',
}
PASSES = [
    (InsertQDQ, {"dtype": "int4", "activation_matmul": True}, "activation_matmul"),
    (InsertQDQ, {"dtype": "nvfp4", "activation_matmul": True}, "activation_matmul"),
    (InsertQDQ, {"dtype": "int8", "block": 128}, "block"),
    (InsertQDQ, {"builds": 4}, "builds"),
    (Smooth, {"dtype": "fp8", "block": 64}, "block"),
    (Smooth, {"measure": False, "only_if_better": True}, "only_if_better"),
    (SearchPrecision, {"block": 64}, "block"),
    (SearchPrecision, {"dtype": "int4", "try_ranges": True}, "try_ranges"),
    (SearchPrecision, {"dtype": "mxfp8", "try_ranges": True}, "try_ranges"),
    (SearchPrecision, {"also": "int8"}, "also"),
    (SearchPrecision, {"times": "runs/a", "measure": True}, "measure"),
    (SearchPrecision, {"quantizer": "m:Own", "exclude": ["a"]}, "exclude"),
    (SearchPrecision, {"quantizer": "m:Own", "dtype": "int4", "block": 64}, "block"),
    (SearchPrecision, {"quantizer_settings": {"exclude": []}}, "quantizer_settings"),
]


@pytest.mark.parametrize(("name", "section"), [*SECTIONS.items(), ("space", "[evaluation]\nspace = 3\n")])
def test_a_recipe_names_the_line(name, section):
    text = MODEL + section
    with pytest.raises(RecipeError) as refused:
        Recipe.parse(text, Path("r.toml"))
    line = 1 + next(number for number, one in enumerate(text.splitlines()) if one.startswith(name))
    assert refused.value.where == f"r.toml:{line}" and name in refused.value.what and name in refused.value.remedy


@pytest.mark.parametrize(
    "text",
    [
        '[calibration]\npercentile = 99.9\n[[pass]]\nuse = "search_precision"\n',
        '[calibration]\npercentile = 99.9\n[[pass]]\nuse = "mine:Pass"\n',
        '[calibration]\nmethods = { "*" = "percentile" }\npercentile = 99.9\n',
        '[calibration]\ndata = "c.npz"\nimages = { size = [8, 8] }\n[evaluation]\ndata = "pictures"\n',
        "[calibration]\ndata = 'D:\\pictures'\nimages = { size = [8, 8] }\n",
        '[calibration]\ndata = "D:/pictures"\nimages = { size = [8, 8] }\n',
    ],
)
def test_what_may_have_an_effect_is_not_refused(text):
    Recipe.parse(MODEL + text, Path("r.toml"))


@pytest.mark.parametrize(("kind", "settings", "name"), PASSES)
def test_a_pass_names_the_setting(kind, settings, name):
    with pytest.raises(RecipeError) as refused:
        kind(**settings)
    assert refused.value.value == name and value_words(settings[name])[:20] in refused.value.what
    kind(**{key: value for key, value in settings.items() if key != name})


def test_a_recipe_names_the_line_of_a_pass():
    text = MODEL + '[[pass]]\nuse = "insert_qdq"\ndtype = "int4"\nactivation_matmul = true\n'
    with pytest.raises(RecipeError) as refused:
        passes_of(Recipe.parse(text, Path("r.toml")), allow_code=False)
    assert refused.value.where == "r.toml:6"


def test_a_table_is_named_without_what_nobody_wrote():
    with pytest.raises(RecipeError, match=r"^r.toml:5: \[calibration\] images has no effect: it configures"):
        Recipe.parse(MODEL + '[calibration]\ndata = "c.npz"\nimages = { scale = 255 }\n', Path("r.toml"))


def test_pairs_that_a_later_pass_takes_out_are_refused_by_the_line_of_the_one_that_inserts_them():
    insert, strip = ('[[pass]]\nuse = "insert_qdq"\n', '[[pass]]\nuse = "strip_qdq"\n')
    passes_of(Recipe.parse(MODEL + strip + insert, Path("r.toml")), allow_code=False)
    # what takes a part of them, or something of them with it, has an effect
    for more in ('nodes = ["head"]\n', "keep_ranges = true\n"):
        passes_of(Recipe.parse(MODEL + insert + strip + more, Path("r.toml")), allow_code=False)
    for text in (insert + strip, insert + strip + insert):
        with pytest.raises(RecipeError) as refused:
            passes_of(Recipe.parse(MODEL + text, Path("r.toml")), allow_code=False)
        assert refused.value.where == "r.toml:4"


def test_a_lock_file_that_says_every_setting_is_not_refused():
    """As those of earlier releases do: their runs are measured again."""
    old = {"use": "insert_qdq", "dtype": "int8", "block": 128, "builds": 8, "exclude": ["a"]}
    content = {"model": {"path": "m.onnx"}, "pass": [old], "calibration": {"ranges_use": "override", "unlike": 2.0}}
    (step,) = passes_of(Recipe.resolved(content, None), allow_code=False)
    assert step.model_dump(exclude_unset=True) == {"dtype": "int8", "exclude": ["a"]}
    with pytest.raises(RecipeError):
        passes_of(Recipe.build(model=content["model"], passes=[old]), allow_code=False)


def test_what_has_an_effect_on_the_second_type_alone_is_not_refused():
    search = SearchPrecision(dtype="int4", also="int8", activation_matmul=True, try_ranges=False)
    assert search.plain().activation_matmul is None
    second = search.model_copy(update={"dtype": "int8", "also": None})
    second._quantizer = None
    assert second.plain().activation_matmul is True and second.try_ranges is False
    with pytest.raises(RecipeError):
        SearchPrecision(dtype="nvfp4", also="mxfp8", activation_matmul=True)


def test_what_a_search_hands_on_is_not_refused():
    search = SearchPrecision(dtype="int4", block=64, also="fp8", exclude=["a"])
    assert search.plain().block == 64 and search.plain().exclude == ["a"]
    second = search.model_copy(update={"dtype": "fp8", "also": None})
    second._quantizer = None
    assert second.plain().dtype == "fp8"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["time", "run", "--gpu", "L4", "--rounds", "5"], "--rounds 5"),
        (["time", "run", "--gpu", "L4", "--allow-code"], "--allow-code"),
        (["bisect", "r.toml", "--command", "true", "--allow-code", "--max-drop", "0.1"], "--max-drop 0.1"),
        (["sensitivity", "r.toml", "--processes", "2", "--on", "ray"], "--processes 2"),
        (["sensitivity", "r.toml", "--processes", "2", "--fast"], "--processes 2"),
        (["migrate", "m.onnx", "--to", "implicit", "--capability", "8.6"], "--capability 8.6"),
        (["migrate", "m.onnx", "--tensorrt", "10.3.0"], "--tensorrt 10.3.0"),
        (["migrate", "trtexec", "--onnx=m.onnx", "--rest", "fp32"], "--rest fp32"),
    ],
)
def test_a_command_names_the_option(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("r.toml").write_text(MODEL)
    Path("m.onnx").write_bytes(b"")
    assert invoke(words) == 2
    told = capsys.readouterr().err
    assert f"{said} has no effect" in told and f"leave out {said.split()[0]}" in told.lower()
