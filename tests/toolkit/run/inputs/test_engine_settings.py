"""The engine's settings as backends take them."""

from __future__ import annotations

import pytest

from toolkit import Recipe
from toolkit.run.inputs.engine_settings import engine_settings


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ("", "kept/engines.timing"),
        ("avg_timing_iterations = 8", "kept/engines8.timing"),
        ('avg_timing_iterations = 8\ntiming_cache = "own.cache"', "own.cache"),
    ],
)
def test_all_engines_of_a_run_share_one_timing_cache(tmp_path, lines, wanted):
    path = tmp_path / "recipe.toml"
    path.write_text(f'[model]\npath = "m.onnx"\n[engine]\n{lines}\n')
    recipe = Recipe.load(path)
    assert engine_settings(recipe, tmp_path / "kept").timing_cache == tmp_path / wanted
    assert (engine_settings(recipe).timing_cache is None) == ("own" not in wanted)
