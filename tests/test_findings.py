"""Sentences are made in one place, of codes and values; nothing reads them."""

from __future__ import annotations

import ast
import inspect
import json
import string
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MODELS, ROOT
from toolkit import run
from toolkit.contract.findings import BaseCode, Finding
from toolkit.report import findings
from toolkit.report.findings.table import written

SENTENCES = {"headline", "reason", "text", "remedy", "why"}
LISTS = {"warnings", "notes", "misses", "doubts", "helpers", "next", "bound"}
"""Lists of sentences, of which the length counts."""
CHANGING = {"seconds", "build_seconds", "path", "time_ms", "inferences"}
SEARCHING = f"""
[model]
path = "{MODELS.as_posix()}/digits_uneven.onnx"
[calibration]
data = "{MODELS.as_posix()}/digits_calibration.npz"
samples = 24
[[pass]]
use = "fold_batchnorm"
[[pass]]
use = "search_precision"
min_sqnr_db = 12.0
helpers = ["equalize"]
[[pass]]
use = "guard_fp16"
[engine]
backend = "none"
[evaluation]
data = "{MODELS.as_posix()}/digits_test.npz"
samples = 24
"""


def codes() -> list[BaseCode]:
    return [code for kind in BaseCode.__subclasses__() for code in kind]


def test_codes_differ_whichever_enumeration_they_are_of():
    values = [code.value for code in codes()]
    assert len(values) == len(set(values))


def test_every_code_has_one_sentence():
    assert sorted(code.value for table in findings.TABLES for code in table) == sorted(code.value for code in codes())


def wanted(template: Any) -> tuple[set[str], set[str] | None]:
    """The values that a template needs, and those that it may take; None where it takes any."""
    if isinstance(template, str):
        fields = {
            field.partition(".")[0].partition("[")[0] for _, field, _, _ in string.Formatter().parse(template) if field
        }
        return fields, None
    named = inspect.signature(template).parameters.values()
    needs = {p.name for p in named if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
    return needs, None if any(p.kind is p.VAR_KEYWORD for p in named) else {p.name for p in named}


def said() -> Iterator[tuple[str, str, set[str], bool]]:
    """Every ``Code.NAME(...)``: where it stands, the code's name, the values' names, and whether there may be more."""
    for path in sorted(file for top in ("toolkit", "passes") for file in (ROOT / top).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
            ):
                continue
            if node.func.value.id.endswith("Code") and node.func.attr.isupper():
                given = {keyword.arg for keyword in node.keywords if keyword.arg}
                open_ended = any(keyword.arg is None for keyword in node.keywords)
                name = f"{node.func.value.id}.{node.func.attr}"
                yield f"{path.relative_to(ROOT)}:{node.lineno}", name, given, open_ended


def test_the_values_that_are_given_are_those_that_the_sentence_takes():
    templates = {f"{type(code).__name__}.{code.name}": template for code, template in findings.TEMPLATES.items()}
    wrong = []
    for place, name, given, open_ended in said():
        if name == "Code.OWN_WORDS":
            continue
        needs, takes = wanted(templates[name])
        if takes is not None and given - takes:
            wrong.append(f"{place}: {name} does not take {sorted(given - takes)}")
        if not open_ended and needs - given:
            wrong.append(f"{place}: {name} needs {sorted(needs - given)}")
    assert not wrong, "\n".join(wrong)


def without_sentences(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {
            key: one for key, one in value.items() if key not in SENTENCES | CHANGING or isinstance(one, (dict, list))
        }
        return {
            key: len(one) if key in LISTS and isinstance(one, list) else without_sentences(one)
            for key, one in kept.items()
        }
    return [without_sentences(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("kind", ["digits", "search"])
def test_a_run_with_nonsense_for_sentences_decides_the_same(kind, tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.toml"
    text = (ROOT / "recipes" / "digits_int8.toml").read_text().replace("../models", MODELS.as_posix())
    recipe.write_text(text.replace('"auto"', '"none"') if kind == "digits" else SEARCHING)
    plain = run(recipe, tmp_path / "plain", device_check=False)
    seen: set[BaseCode] = set()

    def nonsense(template: Any, finding: Finding, sentence: Any) -> str:
        assert written(template, finding, sentence)
        seen.add(finding.code)
        return f"~{zlib.crc32(json.dumps(finding.to_json(), sort_keys=True).encode()):08x}"

    monkeypatch.setattr(findings, "written", nonsense)
    odd = run(recipe, tmp_path / "odd", device_check=False)
    assert odd.exit_status == plain.exit_status and len(seen) > 10
    reports = [json.loads((one.folder / "report.json").read_text()) for one in (plain, odd)]
    assert [part for part in reports[1]["declined"] if not part["reason"].startswith("~")] == []
    assert without_sentences(reports[1]) == without_sentences(reports[0])


def test_journal_lines_are_those_of_the_plain_run_but_for_the_sentences(tmp_path: Path):
    recipe = tmp_path / "recipe.toml"
    text = (ROOT / "recipes" / "digits_int8.toml").read_text().replace("../models", MODELS.as_posix())
    recipe.write_text(text.replace('"auto"', '"none"'))
    out = run(recipe, tmp_path / "out", device_check=False).folder
    lines = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    assert lines and all(line["reason"] and line["rule"] for line in lines)
    assert all("what" in line for line in lines if line["kind"] == "changed")
