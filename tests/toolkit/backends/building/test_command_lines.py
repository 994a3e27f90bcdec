"""The command lines that build an engine elsewhere."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

from toolkit.backends.building.build_config import polygraphy_profiles
from toolkit.backends.building.command_lines import BuildOrder, polygraphy, trtexec
from toolkit.base.errors import QtoolError
from toolkit.base.profiles import Extent, Profiles, ShapeProfile

PROFILES = Profiles(
    (
        ShapeProfile("one", {"a:0": Extent((1, 3), (2, 3), (4, 3)), "n": Extent((), (), ())}),
        ShapeProfile("two", {"a:0": Extent((8, 3), (8, 3), (8, 3)), "n": Extent((), (), ())}),
    )
)
SETTINGS = {
    "typing": "strong", "quantization": "explicit", "rest": "fp16", "workspace": 64 << 20, "optimization_level": 4,
    "avg_timing_iterations": 8, "tactic_sources": ["cudnn"], "refit": True, "sparse_weights": True,
    "version_compatible": True, "hardware_compatible": True, "constraints": None, "tf32": True,
}  # fmt: skip
STRONG = BuildOrder("tensorrt", "10.3.0", SETTINGS, PROFILES, timed=True)
WEAK = replace(
    STRONG,
    version="8.6.0",
    profiles=Profiles(PROFILES.profiles[:1]),
    settings={**SETTINGS, "typing": "weak", "constraints": "prefer"},
    plan={"conv": "int8", "/a/b": "fp32", "c,d": "fp16"},
    types={"/a/b": "fp32", "c,d": "fp16"},
    kept=frozenset({"/a/b"}),
    flags=("fp16", "int8"),
)
IMPLICIT = replace(WEAK, settings={**WEAK.settings, "quantization": "implicit"}, amax={"x": 1.5}, calibrated=True)


def value(words, option):
    (found,) = [word.partition("=")[2] for word in words if word.partition("=")[0] == option]
    return found


def test_trtexec_says_profiles_types_and_settings():
    words = trtexec(STRONG).words
    assert words.index("--profile=0") < words.index("--minShapes='a:0':1x3,n:scalar") < words.index("--profile=1")
    assert words.count("--maxShapes='a:0':8x3,n:scalar") == 1 and "--stronglyTyped" in words
    assert value(words, "--memPoolSize") == "workspace:64M" and value(words, "--avgTiming") == "8"
    assert value(words, "--builderOptimizationLevel") == "4" and value(words, "--timingCacheFile") == "engines.timing"
    assert "+CUDNN" in value(words, "--tacticSources") and "-CUBLAS" in value(words, "--tacticSources")
    assert {"--refit", "--sparsity=enable", "--versionCompatible", "--hardwareCompatibilityLevel=ampere+"} <= set(words)
    # 11 has nothing but strong typing
    assert "--stronglyTyped" not in trtexec(replace(STRONG, version="11.1.0")).words


def test_polygraphy_takes_no_name_for_a_pattern():
    from polygraphy.util import match_keys

    names = ["in put/0 [é]", "a*?", "a*bc"]
    shapes = dict.fromkeys(names, Extent((1, 3), (2, 3), (4, 3)))
    order = replace(STRONG, profiles=Profiles((ShapeProfile("one", shapes),)))
    words = polygraphy(order).words
    start = words.index("--trt-opt-shapes") + 1
    written = [word.rpartition(":")[0] for word in words[start : start + 3]]
    extents = {name: {"min": one.min, "opt": one.opt, "max": one.max} for name, one in shapes.items()}
    (profile,) = polygraphy_profiles([{"shapes": extents}], dict.fromkeys(names, (-1, 3)))
    for keys in (written, list(profile)):
        assert match_keys(keys, names) == (dict(zip(names, keys)), [])


@pytest.mark.parametrize("profiles", [[], [{"shapes": {"x[0]": {"min": (1, 3), "opt": (2, 3), "max": (4, 3)}}}]])
def test_a_fixed_input_whose_name_is_a_pattern_has_its_own_shape_in_a_profile(profiles):
    """Polygraphy would add it under its plain name, and then find no input that this matches."""
    inputs = {"x[0]": (-1, 3) if profiles else (2, 3), "x[1]": (4, 5), "plain": (6, 7)}
    (profile,) = polygraphy_profiles(profiles, inputs)
    wanted = ["x[[]0]", "x[[]1]"]
    assert sorted(profile) == wanted and tuple(profile["x[[]1]"].opt) == (4, 5)


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_fixed_input_whose_name_is_a_pattern_is_in_every_profile_of_the_command(dynamic):
    """Here too Polygraphy would add it under its plain name."""
    from polygraphy.util import match_keys

    order = replace(STRONG, fixed={"x[0]": (2, 3), "plain": (6, 7), "k*": ()})
    order = order if dynamic else replace(order, profiles=Profiles(()))
    words = polygraphy(order).words
    for option in ("--trt-min-shapes", "--trt-opt-shapes", "--trt-max-shapes"):
        places = [at + 1 for at, word in enumerate(words) if word == option]
        assert len(places) == (2 if dynamic else 1)
        for start in places:
            count = 4 if dynamic else 2
            given = dict(word.rsplit(":", 1) for word in words[start : start + count])
            assert given["x[[]0]"] == "[2,3]" and given["k[*]"] == "[]" and "plain" not in given
            names = ["x[0]", "k*", *(["a:0", "n"] if dynamic else [])]
            assert sorted(match_keys(list(given), names)[0]) == sorted(names) and words[start + count][0] == "-"


def test_trtexec_gives_weakly_typed_layers_their_types():
    made = trtexec(WEAK)
    assert {"--fp16", "--int8"} <= set(made.words) and "--stronglyTyped" not in made.words
    assert value(made.words, "--precisionConstraints") == "prefer"
    assert value(made.words, "--layerPrecisions") == "/a/b:fp32"
    # outputs of the network keep their type, and a name with a comma cannot be said
    assert not [word for word in made.words if word.startswith("--layerOutputTypes")] and made.unsaid == ["c,d"]
    assert value(trtexec(IMPLICIT).words, "--calib") == "calibration.cache"


@pytest.mark.parametrize(
    ("order", "remedy"),
    [
        (replace(STRONG, backend="tensorrt_rtx"), "polygraphy"),
        (replace(WEAK, profiles=PROFILES), "polygraphy"),
    ],
)
def test_what_trtexec_cannot_build_is_refused(order, remedy):
    with pytest.raises(QtoolError) as caught:
        trtexec(order)
    assert remedy in caught.value.remedy


def test_attention_may_take_several_kernels_as_in_a_run():
    order = replace(STRONG, attention=True)
    assert (
        "--decomposableAttentions=*" in trtexec(order).words and "--decomposable-attentions" in polygraphy(order).words
    )
    assert not [word for made in (trtexec(STRONG), polygraphy(STRONG)) for word in made.words if "ecomposable" in word]


@pytest.mark.parametrize(
    "order",
    [STRONG, WEAK, IMPLICIT, replace(IMPLICIT, amax={}), replace(STRONG, attention=True)],
    ids=["strong", "weak", "ranges", "own", "attention"],
)
def test_polygraphy_takes_every_word(order):
    from polygraphy.tools.convert.convert import Convert

    parser = argparse.ArgumentParser()
    Convert().setup_parser(parser.add_subparsers())
    made = polygraphy(order)
    known, unknown = parser.parse_known_args(made.words[1:])
    assert not unknown and known.output == "model.engine"
    assert bool(known.strongly_typed) is not order.weak and bool(known.decomposable_attentions) is order.attention
    assert known.trt_min_shapes[0][0] == "a:0:[1,3]" and len(known.trt_min_shapes) == len(order.profiles)
    assert known.load_timing_cache == known.save_timing_cache == "engines.timing"
    # --int8 alone would calibrate on made-up data
    assert bool(known.int8) is (order.calibrated and not order.amax)
    for name, text in made.scripts.items():
        compile(text, name, "exec")
    assert made.scripts["config.py"].count("INT8") == (1 if order in (WEAK, IMPLICIT) else 0)


def test_for_rtx_the_module_and_the_capabilities_are_said():
    settings = {**SETTINGS, "compute_capabilities": ["8.9", "12.0"]}
    made = polygraphy(replace(STRONG, backend="tensorrt_rtx", settings=settings, timed=False))
    assert (
        made.environment == {"POLYGRAPHY_USE_TENSORRT_RTX": "1"}
        and "import tensorrt_rtx as trt" in made.scripts["config.py"]
    )
    at = made.words.index("--compute-capabilities")
    assert made.words[at + 1 : at + 3] == ["8.9", "12.0"] and "--load-timing-cache" not in made.words


def test_the_script_sets_what_a_run_sets(monkeypatch):
    """By the run's own functions: a layer asked for a float type gets it, a tensor with a range its range."""
    tensor = SimpleNamespace(name="t", dtype=SimpleNamespace(name="FLOAT"), is_shape_tensor=False, ranges=[])
    tensor.set_dynamic_range = lambda low, high: tensor.ranges.append((low, high))
    types: dict[int, str] = {}
    layer = SimpleNamespace(
        name="n", metadata="[ONNX Layer: /a/b]", type=SimpleNamespace(name="CONVOLUTION"), num_outputs=1, num_inputs=0,
        get_output=lambda i: tensor, set_output_type=types.__setitem__, precision=None,
    )  # fmt: skip
    network = SimpleNamespace(num_outputs=0, num_inputs=0, num_layers=1, get_layer=lambda i: layer)
    trt = ModuleType("tensorrt")
    trt.DataType = SimpleNamespace(FLOAT="fp32!", HALF="fp16!")
    trt.__version__ = "8.6.0"
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    space: dict = {"__name__": "precisions"}
    sys.modules["precisions"] = ModuleType("precisions")
    try:
        exec(polygraphy(replace(IMPLICIT, amax={"t": 2.0})).scripts["precisions.py"], space)
        space["postprocess"](network)
    finally:
        del sys.modules["precisions"]
    assert layer.precision == "fp32!" and types == {0: "fp32!"} and tensor.ranges == [(-2.0, 2.0)]
