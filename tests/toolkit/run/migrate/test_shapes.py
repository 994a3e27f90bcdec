"""`qtool migrate` of a source that gives no shapes: those of the samples, or sizes of 1 as in trtexec."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.conftest import build, node, normal
from tests.toolkit.run.migrate.test_migrate import migrated, whys
from toolkit.calibration.interchange import write_ranges
from toolkit.contract.ranges import Range, Ranges
from toolkit.report.migrate_codes import MigrateCode


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A convolution of pictures of any size, a cache for it, and pictures of two sizes."""
    monkeypatch.chdir(tmp_path)
    onnx.save(
        build(
            [node("Conv", ["x", "w"], ["y"], name="conv")], {"x": ["n", 3, "h", "w"]}, {"y": None},
            {"w": normal(4, 3, 3, 3)},
        ), "net.onnx",
    )  # fmt: skip
    write_ranges(Ranges({"x": Range(4.0, "minmax")}), Path("net.cache"), "tensorrt", version=8600)
    sizes = [(1, 3, 6, 8), (1, 3, 10, 8), (1, 3, 8, 8)]
    np.savez("data.npz", **{f"x/{number}": normal(*size, seed=number) for number, size in enumerate(sizes)})
    np.savez("single.npz", x=normal(3, 3, 1, 1))
    return tmp_path


def shapes(recipe):
    return [{name: list(vars(one).values()) for name, one in each.shapes.items()} for each in recipe.profiles()]


@pytest.mark.parametrize("given", ["--data", "--test"])
@pytest.mark.parametrize("source", [
    ("net.cache", "--model", "net.onnx"), ("trtexec", "--onnx=net.onnx", "--int8", "--calib=net.cache"),
])  # fmt: skip
def test_samples_give_the_shapes_that_the_source_lacks(here, source, given):
    found, recipe, _ = migrated(*source, given, "data.npz")
    assert shapes(recipe) == [{"x": [(1, 3, 6, 8), (1, 3, 8, 8), (1, 3, 10, 8)]}]
    assert whys(found)["shapes"] == str(MigrateCode.SHAPES_OF_SAMPLES)
    assert ("before" in found["forms"], "after" in found["forms"]) == (True, True)


def test_without_samples_sizes_are_1_as_in_trtexec(here):
    onnx.save(
        build([node("MatMul", ["x", "w"], ["y"], name="fc")], {"x": ["n", "t", 8]}, {"y": None}, {"w": normal(8, 3)}),
        "net.onnx",
    )
    found, recipe, _ = migrated("net.cache", "--model", "net.onnx")
    assert shapes(recipe) == [{"x": [(1, 1, 8)] * 3}]
    assert whys(found)["shapes"] == str(MigrateCode.SHAPES_OF_ONES)


def test_shapes_of_the_source_come_before_those_of_the_samples(here):
    source = ("trtexec", "--onnx=net.onnx", "--int8", "--calib=net.cache")
    asked = ["--minShapes=x:1x3x4x4", "--optShapes=x:2x3x8x8", "--maxShapes=x:2x3x16x16"]
    _, recipe, _ = migrated(*source, *asked, "--test", "data.npz")
    assert shapes(recipe) == [{"x": [(1, 3, 4, 4), (2, 3, 8, 8), (2, 3, 16, 16)]}]
