"""``qtool new`` for a folder of images, and the names it gives."""

from __future__ import annotations

import importlib.util
import shlex
import struct
import zlib
from functools import partial

import numpy as np
import onnx
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import build, node, normal
from tests.toolkit.conftest import complain
from toolkit import Context, Model
from toolkit.backends.choose import lacks_int8
from toolkit.backends.none import NoBackend
from toolkit.base.precision import Precision
from toolkit.cli.main import invoke
from toolkit.contract.ranges import Range, Ranges
from toolkit.placement.codes import PlacementCode
from toolkit.run.recipe.recipe import Recipe

RANGES = Ranges({name: Range(1.0, "manual") for name in ("x", "c", "y")})
PILLOW = pytest.mark.skipif(importlib.util.find_spec("PIL") is None, reason="Pillow is not installed")


def png(path, height, width):
    """A grey image of that size, written without Pillow."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes([row % 256] * 3 * width) for row in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.fixture
def place(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(6):
        png(tmp_path / "photos" / f"{number}.png", 12 + number, 20)
    return tmp_path


def network(place, shape, opset=17):
    channels = shape[1] if isinstance(shape[1], int) else 3
    if isinstance(shape[3], int) and not isinstance(shape[1], int):
        nodes = [node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), node("Conv", ["t", "w"], ["y"])]
        channels = shape[3]
    else:
        nodes = [node("Conv", ["x", "w"], ["y"])]
    proto = build(nodes, {"x": shape}, {"y": ["n", 4, None, None]}, {"w": normal(4, channels, 1, 1)}, opset=opset)
    onnx.save(proto, str(place / "model.onnx"))
    return place / "model.onnx"


def made(place, *words):
    out = place / "made.toml"
    assert invoke(["new", str(place / "model.onnx"), "--out", str(out), "--force", *map(str, words)]) == 0
    return Recipe.load(out), out.read_text()


@PILLOW
def test_images_for_a_model_of_any_size_take_the_first_ones(place, capsys):
    network(place, ["n", 3, "h", "w"])
    recipe, text = made(place, "--data", place / "photos")
    assert recipe.calibration.images.size == [12, 20]
    assert "is the first image's: check it (0.png has [12, 20])" in text
    assert recipe.calibration.images.mean == [0.0] * 3 and recipe.calibration.images.std == [1.0] * 3
    assert recipe.profile[0].shapes["x"] == {"min": [1, 3, 12, 20], "opt": [8, 3, 12, 20], "max": [32, 3, 12, 20]}
    assert invoke(["check", str(place / "made.toml")]) == 0
    assert "calibration: 5 samples\nevaluation: 1 sample\n" in capsys.readouterr().out


@PILLOW
def test_photographs_are_no_size_for_a_model(place):
    network(place, ["n", 3, "h", "w"])
    png(place / "photos" / "0.png", 700, 900)
    recipe, text = made(place, "--data", place / "photos")
    assert recipe.calibration.images.size == [224, 224]
    assert "is a guess: check it (0.png has [700, 900])" in text


def test_without_pillow_the_recipe_is_written_all_the_same(place, capsys, monkeypatch):
    import sys

    network(place, ["n", 3, "h", "w"])
    monkeypatch.setattr("toolkit.data.images.importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    recipe, text = made(place, "--data", place / "photos")
    assert recipe.calibration.images.size == [224, 224] and "(Pillow is not installed)" in text
    said = complain(place, capsys, "check", str(place / "made.toml"))
    assert "needs Pillow" in said and "pip install 'qtool[images]'" in said


@PILLOW
@pytest.mark.parametrize(
    ("shape", "size", "layout", "colour", "sample"),
    [
        (["n", 3, 16, 24], None, "nchw", "rgb", [3, 16, 24]),
        (["n", 1, "h", 24], [12, 24], "nchw", "gray", [1, 12, 24]),
        (["n", "h", "w", 3], [12, 20], "nhwc", "rgb", [12, 20, 3]),
    ],
)
def test_what_the_model_fixes_is_kept(place, capsys, shape, size, layout, colour, sample):
    network(place, shape)
    recipe, _ = made(place, "--data", place / "photos")
    images = recipe.calibration.images
    assert (images.size, images.layout, images.colour) == (size, layout, colour)
    assert recipe.profile[0].shapes["x"]["min"] == [1, *sample]
    assert invoke(["check", str(place / "made.toml")]) == 0


@PILLOW
def test_test_images_have_no_labels_and_so_no_metric(place, capsys):
    network(place, ["n", 3, "h", "w"])
    recipe, text = made(place, "--data", place / "photos", "--test", place / "photos")
    assert recipe.evaluation.metric is None and not recipe.evaluation.budget.model_dump(exclude_none=True)
    assert "Images have no labels" in text
    assert invoke(["check", str(place / "made.toml")]) == 0


@PILLOW
def test_answers_on_images_are_held_against_their_task_as_those_on_arrays_are(place, capsys):
    """Masks at 20 dB of SQNR are other masks: no limit is written that is looser than the task's own."""
    network(place, ["n", 3, "h", "w"])
    _, text = made(place, "--data", place / "photos")
    assert "\nbudget" not in text and "\ntask" not in text
    said = capsys.readouterr().out
    assert "Warning: Images are read as RGB, from 0 to 1, with mean 0 and std 1: the model does not say" in said
    assert invoke(["check", str(place / "made.toml")]) == 0
    assert "task: Judged as regression by 'y'" in capsys.readouterr().out


@PILLOW
def test_a_model_that_scales_whole_numbers_itself_leaves_no_doubt_of_them(place, capsys):
    nodes = [node("Cast", ["x"], ["f"], to=1), node("Conv", ["f", "w"], ["y"])]
    whole = {"x": onnx.TensorProto.UINT8}
    proto = build(nodes, {"x": ["n", 3, 12, 20]}, {"y": None}, {"w": normal(4, 3, 1, 1)}, types=whole)
    onnx.save(proto, str(place / "model.onnx"))
    made(place, "--data", place / "photos")
    assert "Images are read" not in capsys.readouterr().out


def test_images_for_a_model_that_takes_none(place, capsys):
    onnx.save(build([node("Relu", ["x"], ["y"])], {"x": ["n", 8]}, {"y": ["n", 8]}), str(place / "model.onnx"))
    said = complain(place, capsys, "new", str(place / "model.onnx"), "--data", str(place / "photos"))
    assert "'x' ['n', 8]" in said and ".npz" in said


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("", ["made.toml:8", "[calibration] images.size is not given", "['n', 3, 'h', 'w']", "images = { size = [224, 224] }"]),
        ("images = { size = [4] }", ["made.toml:10", "[calibration] images.size is [4], not [height, width]"]),
        ("images = { size = [4, 4], mean = [1, 2] }", ["made.toml:10", "[calibration] images.mean is [1.0, 2.0]"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("table", ["calibration", "evaluation"])
def test_the_settings_of_images_have_a_place_in_the_recipe(place, capsys, images, words, table):
    network(place, ["n", 3, "h", "w"])
    np.savez(place / "data.npz", x=normal(8, 3, 4, 4))
    data = {"calibration": "data.npz", "evaluation": "data.npz", table: "photos"}
    (place / "made.toml").write_text(
        f"""[model]
path = "model.onnx"

[[profile]]
name = "default"
shapes.x = {{ min = [1, 3, 4, 4], opt = [2, 3, 4, 4], max = [8, 3, 8, 8] }}

[calibration]
data = "{data["calibration"]}"
{images}

[evaluation]
data = "{data["evaluation"]}"
"""
    )
    said = complain(place, capsys, "check", str(place / "made.toml"))
    if table == "evaluation" and images:
        # settings for images are wrong for a calibration archive only where they are read
        assert "[calibration] images" in said
    for word in words:
        assert word in said, said


def test_the_only_profile_is_called_default(place):
    network(place, ["n", 3, "h", "w"])
    np.savez(place / "data.npz", x=normal(8, 3, 4, 4))
    recipe, _ = made(place, "--data", place / "data.npz")
    assert [profile.name for profile in recipe.profile] == ["default"]


@pytest.mark.parametrize(
    ("activation", "helpers"), [("Relu", ["equalize", "smooth"]), ("HardSwish", ["shift", "smooth"])]
)
def test_only_helpers_that_find_a_layer_to_work_on_are_named(place, activation, helpers):
    nodes = [
        node("Conv", ["x", "w"], ["c"]), node("BatchNormalization", ["c", "g", "s", "s", "g"], ["b"]),
        node(activation, ["b"], ["a"]), node("Conv", ["a", "v", "s"], ["y"]),
    ]  # fmt: skip
    weights = {"w": normal(4, 3, 1, 1), "v": normal(4, 4, 1, 1), "g": np.ones(4, np.float32), "s": normal(4)}
    proto = build(nodes, {"x": ["n", 3, 8, 8]}, {"y": ["n", 4, 8, 8]}, weights)
    onnx.save(proto, str(place / "model.onnx"))
    recipe, _ = made(place)
    assert recipe.passes[2]["helpers"] == helpers


def test_the_command_that_comes_next_is_one_that_a_shell_takes(place, capsys):
    network(place, ["n", 3, 8, 8])
    np.savez(place / "data.npz", x=normal(8, 3, 8, 8))
    target = place / "re cipes" / "it's mine.toml"
    assert invoke(["new", str(place / "model.onnx"), "--data", str(place / "data.npz"), "--out", str(target)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(last)[-1] == str(target) and last.startswith("next: qtool check ")
    assert invoke(shlex.split(last)[2:]) == 0


@pytest.mark.parametrize(("backend", "left"), [("tensorrt_rtx", ["up"]), ("tensorrt", []), ("none", [])])
def test_what_the_recipes_backend_has_no_int8_kernel_for_stays_float(place, monkeypatch, backend, left):
    """Whatever the machine that new ran on has: the recipe says nothing of it, and is decided on where it runs."""
    nodes = [node("ConvTranspose", ["x", "w"], ["c"], "up"), node("Conv", ["c", "v"], ["y"])]
    weights = {"w": normal(3, 4, 2, 2), "v": normal(4, 4, 1, 1)}
    onnx.save(build(nodes, {"x": ["n", 3, 8, 8]}, {"y": ["n", 4, 9, 9]}, weights), str(place / "model.onnx"))
    recipe, _ = made(place)
    assert all("exclude_ops" not in one for one in recipe.passes) and recipe.engine.backend == "auto"
    here = NoBackend()
    here.name = backend
    monkeypatch.setattr("toolkit.backends.choose.choose", lambda name: (here, None))
    for asked in ("auto", backend):
        assert [op for op in ("ConvTranspose", "Conv") if lacks_int8(asked, op)] == (["ConvTranspose"] if left else [])
    monkeypatch.setattr("toolkit.backends.choose.choose", lambda name: pytest.fail("chosen"))
    assert not lacks_int8("auto", "Conv")
    context = Context(known_ranges=RANGES, lacks_int8=partial(lacks_int8, backend))
    InsertQDQ()(Model.load(place / "model.onnx"), context)
    refused = [one for one in context.journal.of("declined") if one.rule == PlacementCode.LACKS_INT8.value]
    assert [one.node for one in refused] == left


def test_an_operator_that_the_recipe_names_is_quantized_whatever_the_backend_has(place):
    nodes = [node("ConvTranspose", ["x", "w"], ["y"], "up")]
    model = Model.from_proto(build(nodes, {"x": ["n", 3, 8, 8]}, {"y": ["n", 4, 9, 9]}, {"w": normal(3, 4, 2, 2)}))
    context = Context(known_ranges=RANGES, lacks_int8=lambda op: "tensorrt_rtx")
    InsertQDQ(include_ops=["ConvTranspose"])(model, context)
    assert context.plan.get("up").precision is Precision.INT8


@pytest.mark.parametrize("option", ["--data", "--test"])
def test_code_is_not_taken_for_a_file_that_is_missing(tmp_path, capsys, option):
    onnx.save(build([node("Relu", ["x"], ["y"])], {"x": [1, 3]}, {"y": [1, 3]}), str(tmp_path / "model.onnx"))
    said = complain(tmp_path, capsys, "new", str(tmp_path / "model.onnx"), option, "own_data:samples")
    assert "own_data:samples: it names code, but no code is run to write a recipe" in said
    assert 'set data = "own_data:samples" in the recipe' in said


@pytest.mark.parametrize(
    "text", ['[model]\npath = "model.onnx"\n', '# mine\nmodel.path = "model.onnx"\n', "[ model ]\npath ="]
)
def test_a_recipe_in_place_of_a_model_is_called_one(place, capsys, monkeypatch, text):
    """It was said to be no valid model, to be exported again; and without --out, to be about to be written over."""
    monkeypatch.chdir(place)
    (place / "mine.toml").write_text(text)
    (place / "mine.onnx").write_text(text)
    for words in ([], ["--out", "other.toml"]):
        said = complain(place, capsys, "new", "mine.toml", *words)
        assert said.startswith("qtool: mine.toml: this is a recipe, not an ONNX model. Run it: qtool run mine.toml; ")
        # run would take it for a model, by its name
        said = complain(place, capsys, "new", "mine.onnx", *words)
        assert "this is a recipe, not an ONNX model. Give it a name that ends in .toml to run it" in said
    (place / "nested.toml").write_text('[model]\npath = "mine.toml"\n[engine]\nbackend = "none"\n')
    assert "mine.toml: this is a recipe, not an ONNX model" in complain(place, capsys, "check", "nested.toml")
    assert (place / "mine.toml").read_text() == text and not (place / "other.toml").exists()


@pytest.mark.parametrize("content", [b"model of mine", b"\n\x09model.abc\x12\x01[model]\n", b"weights = 1\n"])
def test_what_is_no_recipe_either_is_no_valid_model(place, capsys, content):
    (place / "broken.onnx").write_bytes(content)
    said = complain(place, capsys, "new", str(place / "broken.onnx"), "--out", str(place / "other.toml"))
    assert "this is not a valid ONNX model" in said or "the model has no nodes" in said


def test_a_model_above_protobufs_limit_gets_a_memory_limit(place, capsys, monkeypatch):
    network(place, ["n", 3, 20, 20])
    given = ["new", f"{place}/model.onnx", "--data", f"{place}/photos", "--out"]
    assert invoke([*given, f"{place}/small.toml"]) == 0
    assert Recipe.load(place / "small.toml").run.memory is None
    monkeypatch.setattr("toolkit.run.new.new_recipe.bounding_limit", lambda light: 2_738_041_652)
    assert invoke([*given, f"{place}/large.toml"]) == 0
    assert Recipe.load(place / "large.toml").run.memory_bytes == 2_739_000_000
