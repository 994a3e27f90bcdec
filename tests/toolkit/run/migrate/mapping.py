"""The mapping of every flag, as toolkit/run/migrate/README.md has it: made of the tables that read command lines and scripts."""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.report.findings import sentence
from toolkit.run.migrate.orders.terms import OUTCOMES, POLYGRAPHY, SHORT, TRTEXEC, Flag, Term
from toolkit.run.migrate.python_scripts.calls import ASSIGNED, BUILDER_FLAGS, CALLED

_SAID_BY_CALLS: dict[Term, str] = {
    Term.MODEL: "parse_from_file, open",
    Term.CACHE: "the calibrator's cache",
    Term.CALIBRATOR: "the calibrator's base class",
    Term.LAYERS: "layer.precision",
    Term.OPS: "layer.precision by layer.type",
    Term.TYPES: "layer.set_output_type",
    Term.RANGE: "tensor.dynamic_range, set_dynamic_range",
    Term.TENSOR_IO: "tensor.dtype of inputs and outputs",
    Term.MIN: "profile.set_shape",
    Term.OPT: "profile.set_shape",
    Term.MAX: "profile.set_shape",
    Term.WORKSPACE: "set_memory_pool_limit",
    Term.TACTICS: "set_tactic_sources",
    Term.NO_TF32: "clear_flag(BuilderFlag.TF32)",
    Term.STRONG: "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    Term.UNSET: "all other members of BuilderFlag",
}
"""What scripts say by calls whose arguments are read one by one."""


def mapping_table() -> str:
    """A Markdown table: what each flag of trtexec and Polygraphy and each name in Python becomes."""
    lines = ["| trtexec | Polygraphy | TensorRT's Python | becomes |", "| --- | --- | --- | --- |"]
    python = {f"BuilderFlag.{name}": flag for name, flag in BUILDER_FLAGS.items()} | ASSIGNED | CALLED
    for term, outcome in OUTCOMES.items():
        if outcome.why is not None:
            becomes = ("lost: " if outcome.lost else "nothing: ") + sentence(outcome.why())
        else:
            becomes = (
                f"`{outcome.words}`" if outcome.words.startswith("[") and "," not in outcome.words else outcome.words
            )
        calls = [_names(python, term), _code(_SAID_BY_CALLS.get(term, ""))]
        cells = [_names(TRTEXEC, term), _polygraphy(term), ", ".join(filter(None, calls)), becomes]
        if any(cells[:3]):
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _names(table: Mapping[str, Flag], term: Term) -> str:
    return ", ".join(f"`{name}`" for name, flag in table.items() if flag.term is term)


def _polygraphy(term: Term) -> str:
    short = [f"`{one}`" for one, long in SHORT.items() if POLYGRAPHY[long].term is term]
    found = {Term.MODEL: ["the model file"], Term.BACKEND: ["`POLYGRAPHY_USE_TENSORRT_RTX=1`"]}.get(term, [])
    return ", ".join(filter(None, [*found, _names(POLYGRAPHY, term), *short]))


def _code(text: str) -> str:
    return ", ".join(part if " " in part else f"`{part}`" for part in text.split(", ")) if text else ""
