"""Replay of whole qtool runs: record what a checkout makes of every case, and compare another checkout with it.

    python -m tests.replay record OUT.json [--checkout DIR] [--only GLOB]
    python -m tests.replay compare RECORDED.json [--checkout DIR] [--only GLOB] [--rtol 1e-5]

A record is of the checkout before a change, made when it is needed: what a run leaves changes for good reasons too.
It is a black box: qtool runs as a program, and only what a run leaves for its user is read: model.onnx, ranges.json
and report.json. A case is a recipe: each of the checkout's own, and each of cases/*.toml beside this file. For the
latter the model of that name is taken from onnx's light models, or else from the checkout's models/, and
calibration.npz is made of seeded random samples. To add a case, put its recipe into cases/ and record again.

Left out, since it may differ where qtool does the same: times that were measured, paths, versions, fingerprints,
sentences (lists of them keep their length), the settings and steps that a report lists. No GPU is used. Where
model.sha256 differs and model.without_reasons does not, only sentences in the model's metadata changed. On another
processor, or with another number of cores, the last bits of floats differ: compare there with --rtol.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.replay.outcome import outcome
from tests.replay.running import cases, machine, run

GROUPED = ("plan", "layers", "macs", "engine_layers")
"""What has a value for every node: stored as lists of nodes by value, which is much smaller."""
NEAR_ZERO = 1e-9
"""With --rtol, floats that differ by no more are the same: differences of nearly equal numbers are noise."""
FAILED = {"stderr", "unreadable"}
"""What is recorded only of runs that failed."""
GONE = object()


def main() -> int:
    """Run the command line; the exit status is 1 where anything differs."""
    parser = argparse.ArgumentParser(prog="replay", description=str(__doc__).partition("\n")[0])
    command = parser.add_subparsers(dest="command", required=True)
    record, compare = command.add_parser("record"), command.add_parser("compare")
    compare.add_argument("--rtol", type=float, default=0.0, help="relative difference that floats may have")
    for one in (record, compare):
        one.add_argument("file", type=Path)
        one.add_argument("--checkout", type=Path, default=Path(), help="default: the current folder")
        one.add_argument("--only", default="*", help="a glob of the names of cases")
    given = parser.parse_args()
    checkout = given.checkout.resolve()
    if given.command == "record":
        found = {"machine": machine(), "cases": dict(_ran(checkout, given.only))}
        given.file.write_text(_layout(_grouped(found)) + "\n", encoding="utf-8")
        return 0
    recorded = _spread(json.loads(given.file.read_text(encoding="utf-8")))
    return _compared(recorded, checkout, given.only, given.rtol)


def _ran(checkout: Path, only: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name and outcome of every case, as soon as it is there."""
    with tempfile.TemporaryDirectory(prefix="replay-") as made:
        for case in cases(checkout):
            if fnmatch.fnmatch(case.name, only):
                start = time.monotonic()
                ran = run(case, checkout, Path(made).resolve())
                print(f"{case.name}: exit {ran.status}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
                # Through JSON, so that what is compared is what would be read.
                yield case.name, json.loads(json.dumps(outcome(ran)))


def _compared(recorded: dict[str, Any], checkout: Path, only: str, rtol: float) -> int:
    for what, value in machine().items():
        if recorded["machine"].get(what) != value:
            print(f"note: recorded with {what} {recorded['machine'].get(what)}, here {value}", file=sys.stderr)
    expected = {name: one for name, one in recorded["cases"].items() if fnmatch.fnmatch(name, only)}
    total = 0
    for name, found in _ran(checkout, only):
        if name not in expected:
            print(f"note: {name} was not recorded", file=sys.stderr)
            continue
        before = expected.pop(name)
        if FAILED & found.keys():  # then all that a run leaves is missing, which needs no line for each
            before = {key: one for key, one in before.items() if key in FAILED | {"exit"}}
        for path, was, now in differences(before, found, rtol):
            total += 1
            print(f"{name} {path}: {_shown(was)} -> {_shown(now)}", flush=True)
    for name in expected:
        total += 1
        print(f"{name}: its recipe is no longer there")
    print(f"{total} differences" if total else "no differences")
    return 1 if total else 0


def differences(before: Any, after: Any, rtol: float = 0.0, path: str = "$") -> Iterator[tuple[str, Any, Any]]:
    """Every place where two records differ, as its JSON path and both values; digests of floats need ``rtol`` 0."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            if not (rtol and key.startswith("exact")):
                place = f"{path}.{key}" if key.isidentifier() else f"{path}[{json.dumps(key)}]"
                yield from differences(before.get(key, GONE), after.get(key, GONE), rtol, place)
    elif _words(before) and _words(after) and Counter(before) != Counter(after):
        yield from ((path, one, GONE) for one in (Counter(before) - Counter(after)).elements())
        yield from ((path, GONE, one) for one in (Counter(after) - Counter(before)).elements())
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, pair in enumerate(zip(before, after)):
            yield from differences(*pair, rtol, f"{path}[{index}]")
    elif not _same(before, after, rtol):
        yield path, before, after


def _words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _same(before: Any, after: Any, rtol: float) -> bool:
    if rtol and isinstance(before, float) and isinstance(after, float):
        return math.isclose(before, after, rel_tol=rtol, abs_tol=NEAR_ZERO) or repr(before) == repr(after)
    return type(before) is type(after) and (before == after or repr(before) == repr(after))


def _shown(value: Any) -> str:
    text = "(none)" if value is GONE else json.dumps(value)
    return text if len(text) <= 300 else f"{text[:300]}..."


def _grouped(found: dict[str, Any]) -> dict[str, Any]:
    """The record in its smaller form."""
    for case in found["cases"].values():
        for part in GROUPED:
            nodes: dict[str, list[str]] = {}
            for node, value in case.get(part, {}).items():
                nodes.setdefault(str(value), []).append(node)
            if part in case:
                case[part] = nodes
    return found


def _spread(stored: dict[str, Any]) -> dict[str, Any]:
    """The record as runs give it; the reverse of ``_grouped``."""
    for case in stored["cases"].values():
        for part in GROUPED:
            if part in case:
                case[part] = {node: value for value, nodes in case[part].items() for node in nodes}
    return stored


def _layout(value: Any, depth: int = 0) -> str:
    """JSON with a line for each entry of the outer objects, and what is deeper within on one line."""
    if isinstance(value, dict) and value and depth < 5:
        pad = " " * (depth + 1)
        lines = (f"{pad}{json.dumps(key)}: {_layout(one, depth + 1)}" for key, one in value.items())
        return "{\n" + ",\n".join(lines) + f"\n{pad[1:]}}}"
    return json.dumps(value, separators=(",", ":"))


if __name__ == "__main__":
    raise SystemExit(main())
