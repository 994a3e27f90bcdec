"""The page on writing passes: its Python runs as it stands, in one namespace from the top down."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest

from tests.conftest import ROOT
from toolkit import Context, Model, Range, Ranges, session

PAGE = ROOT / "passes" / "README.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_every_block_runs(tmp_path, monkeypatch):
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    assert len(blocks()) >= 5
    run_page()
    assert [path.name for path in Path(tmp_path).iterdir()] == ["models"]


def run_page() -> dict[str, Any]:
    """Run all blocks; returns what they define."""
    # a block's first line is where the page says it is, so that a failure names it
    text = PAGE.read_text(encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in blocks():
        line = text[: text.index(block)].count("\n")
        exec(compile("\n" * line + block, str(PAGE), "exec"), namespace)
    return namespace


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return run_page()


CLIPS = """<ir_version: 8, opset_import: ["" : 17]>
    clips (float[N,4] x) => (float[N,4] y, float[N,4] z) <float low = {0}, float high = {6}>
    { a = Clip(x, low)  y = Exp(a)  z = Clip(x, low, high) }"""


def test_its_clips_become_relus_and_others_are_declined(page):
    model, context = Model.from_proto(onnx.parser.parse_model(CLIPS)), Context()
    before = model.copy()
    page["ClipToRelu"]()(model, context)
    assert [node.op for node in model.nodes] == ["Relu", "Clip", "Exp"]
    x = np.linspace(-9, 9, 8, dtype=np.float32).reshape(2, 4)
    wanted, found = (session(one).run({"x": x}) for one in (before, model))
    assert all(np.array_equal(wanted[name], found[name]) for name in ("y", "z"))
    assert [event.node for event in context.journal.of("declined")] == [model.nodes[1].name]


@pytest.mark.parametrize(("amax", "kept"), [(19.0, []), (21.0, ["fp16"])])
def test_its_layer_before_a_softmax_is_kept_where_values_are_large(page, amax, kept):
    text = (
        CLIPS[: CLIPS.index("clips")]
        + "g (float[N,4] x, float[4,3] w) => (float[N,3] y) { a = MatMul(x, w) y = Softmax(a) }"
    )
    model = Model.from_proto(onnx.parser.parse_model(text))
    context = Context(known_ranges=Ranges({"a": Range(amax, "by hand")}))
    page["KeepBeforeSoftmax"]()(model, context)
    assert [str(ask.precision) for _, ask in context.plan.items()] == kept
    assert len(list(context.journal.of("declined"))) == 1 - len(kept)


def test_its_table_names_what_the_contract_has():
    from toolkit import Context, Pass, Role

    text = PAGE.read_text(encoding="utf-8")
    contract = text[text.index("## What a run must know") : text.index("## The context")]
    members = re.findall(r"^\| `(\w+)", contract, flags=re.MULTILINE)
    assert len(members) > 8 and not [name for name in members if not hasattr(Pass, name)]
    for name in re.findall(r"`context\.(\w+)", text):
        assert hasattr(Context, name) or name in Context.__dataclass_fields__, name
    for name in re.findall(r"`Role\.(\w+)`", text):
        assert name in Role.__members__, name


def test_it_names_every_pass_and_its_file_once():
    listed = PAGE.read_text(encoding="utf-8").partition("| pass, in the file of its name")[2].partition("\n\n")[0]
    first = "\n".join(row.split("|")[1] for row in listed.splitlines() if row.startswith("| `"))
    files = [path.stem for path in PAGE.parent.glob("*.py") if path.stem != "__init__"]
    assert sorted(re.findall(r"`(\w+)`", first)) == sorted(files)
