"""The public surface: what ``toolkit`` exports, and that it is enough for the built-in passes and for anybody's.

Where a name comes, goes or changes its arguments on purpose: ``python -m tests.test_surface`` writes surface.txt anew.
"""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import toolkit
from tests.conftest import ROOT

SURFACE = Path(__file__).parent / "surface.txt"

USERS_OWN = '''
from collections.abc import Sequence

from pydantic import Field

from toolkit import Context, Facts, Judge, Model, Pass, Placement, Quantizer, Result, Role, keep_float, layers, place, run


class KeepNarrow(Pass):
    """Keep layers with few output channels in float."""

    role = Role.KEEP
    channels: int = Field(8, gt=0, description="layers with fewer output channels stay float")

    def ranges_wanted(self, model: Model, context: Context) -> Sequence[str] | None:
        return None

    def apply(self, model: Model, context: Context) -> None:
        for layer in layers(model):
            if layer.axis is not None and layer.weight.shape[layer.axis] < self.channels:
                keep_float(context, layer.node, "fp16", f"it has {layer.weight.shape[layer.axis]} channels")
        model.tidy()


class LinearOnly(Quantizer):
    """Quantize Gemm and MatMul alone."""

    def place(self, model: Model, facts: Facts, judge: Judge) -> Placement:
        return place(model, facts, judge)


def main() -> str:
    result: Result = run("recipe.toml")
    return result.report.summary.headline
'''


def surface() -> str:
    """A line a name: what it is, and the arguments of functions and methods."""
    lines = []
    for name in sorted(toolkit.__all__):
        found = getattr(toolkit, name)
        if inspect.isclass(found):
            lines.append(f"{name}: class")
            for attribute, value in sorted(vars(found).items()):
                if attribute.startswith("_") or not (
                    inspect.isfunction(value) or isinstance(value, (classmethod, property))
                ):
                    continue
                if isinstance(value, property):
                    lines.append(f"    {attribute}")
                else:
                    arguments = inspect.signature(getattr(value, "__func__", value)).parameters
                    lines.append(f"    {attribute}({', '.join(arguments)})")
        elif inspect.isfunction(found):
            lines.append(f"{name}({', '.join(inspect.signature(found).parameters)})")
        else:
            lines.append(f"{name}: value")
    return "\n".join(lines) + "\n"


def test_the_surface_is_what_was_agreed():
    assert surface() == SURFACE.read_text(encoding="utf-8"), (
        "the public surface changed. If that is meant, run `python -m tests.test_surface`, look at the difference, and "
        "say in the commit what users have to change"
    )


def test_what_type_checkers_see_is_what_is_loaded():
    tree = ast.parse((ROOT / "toolkit" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {node.names[0].asname: node.module for node in block.body if isinstance(node, ast.ImportFrom)}
    assert seen == toolkit._HOME


@pytest.mark.parametrize("path", sorted((ROOT / "passes").glob("*.py")), ids=lambda path: path.stem)
def test_built_in_passes_use_the_public_surface_alone(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "toolkit":
            assert node.module == "toolkit", f"line {node.lineno}: export what it needs from toolkit/__init__.py"
            assert {alias.name for alias in node.names} <= set(toolkit.__all__)


def test_a_users_pass_is_strictly_typed(tmp_path):
    (tmp_path / "mine.py").write_text(USERS_OWN)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir",
         str(ROOT / ".mypy_cache"), str(tmp_path / "mine.py")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_users_wrong_setting_is_named_with_its_line(tmp_path, monkeypatch):
    (tmp_path / "keep_first_and_last.py").write_text((ROOT / "recipes" / "keep_first_and_last.py").read_text())
    (tmp_path / "r.toml").write_text(
        f"[model]\npath = {str(ROOT / 'models' / 'digits_cnn.onnx')!r}\n[[pass]]\n"
        'use = "keep_first_and_last:KeepFirstAndLast"\nprecision = "fp61"\n[engine]\nbackend = "none"\n'
    )
    with pytest.raises(toolkit.RecipeError) as caught:
        toolkit.run(tmp_path / "r.toml", tmp_path / "out", allow_code=True)
    assert caught.value.where == f"{tmp_path / 'r.toml'}:5"
    assert "fp61" in caught.value.what and "fp16" in caught.value.remedy


def test_py_typed_is_in_the_package():
    assert (ROOT / "toolkit" / "py.typed").is_file()


if __name__ == "__main__":
    SURFACE.write_text(surface(), encoding="utf-8")
