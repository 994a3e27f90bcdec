"""Cases, and running qtool on one of them: as a program, from a checkout, in a folder and an environment of its own."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OWN = Path(__file__).resolve().parent / "cases"
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
SAMPLES = 5
"""How many random samples a case gets; a fifth is held back from calibration, so fewer would leave none to measure."""
SEED = 0
LIMIT_S = 900
CODE = re.compile(r'=\s*"[\w.]+:\w+"')
"""A value of a recipe that names code."""
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Case:
    """One recipe to run: of the checkout, or of this tool, for which ``made`` is true."""

    name: str
    recipe: Path
    made: bool


@dataclass(frozen=True)
class Ran:
    """How a run ended; ``where`` maps folders to the words that stand for them in what is recorded."""

    status: int | str
    stderr: str
    out: Path
    where: Mapping[str, str]


def cases(checkout: Path) -> list[Case]:
    """Every case, the checkout's recipes first."""
    found = [Case(f"recipes/{path.stem}", path, False) for path in sorted((checkout / "recipes").glob("*.toml"))]
    return found + [Case(f"cases/{path.stem}", path, True) for path in sorted(OWN.glob("*.toml"))]


def project(checkout: Path) -> dict[str, Any]:
    """The checkout's [project] table."""
    with (checkout / "pyproject.toml").open("rb") as file:
        table: dict[str, Any] = tomllib.load(file)["project"]
    return table


def environment(checkout: Path, shared: Path) -> dict[str, str]:
    """The variables of a run: the checkout's code and entry points win over an installed qtool, no GPU is seen.

    An installed qtool may belong to another checkout. So a distribution is made up in ``shared`` that lists this
    checkout's entry points: Python takes the first of a name that it finds.
    """
    site, home = shared / "site", shared / "home"
    about = project(checkout)
    info = site / f"{about['name']}-{about['version']}.dist-info"
    for folder in (info, home):
        folder.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n")
    groups = {"console_scripts": about.get("scripts", {}), **about.get("entry-points", {})}
    sections = ("\n".join((f"[{group}]", *(f"{k} = {v}" for k, v in names.items()))) for group, names in groups.items())
    (info / "entry_points.txt").write_text("\n".join(sections) + "\n")
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return kept | {
        "PYTHONPATH": os.pathsep.join((str(site), str(checkout))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUTF8": "1",
        "NUMBA_CACHE_DIR": str(shared / "numba"),
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
        "COLUMNS": "100",
        "CUDA_VISIBLE_DEVICES": "",
    }


def program(checkout: Path, variables: Mapping[str, str], folder: Path) -> list[str]:
    """The command line that starts the checkout's qtool.

    Raises:
        SystemExit: its module would be loaded from elsewhere.
    """
    module = str(project(checkout)["scripts"]["qtool"]).partition(":")[0]
    told = subprocess.run(
        [sys.executable, "-c", f"import importlib.util as u; print(u.find_spec('{module}').origin)"],
        env=dict(variables), cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if told.returncode != 0 or not Path(told.stdout.strip()).resolve().is_relative_to(checkout):
        raise SystemExit(f"{module} is not loaded from {checkout}: {(told.stdout + told.stderr).strip()}")
    return [sys.executable, "-m", module]


def run(case: Case, checkout: Path, shared: Path) -> Ran:
    """Run one case in a new folder of ``shared``."""
    folder = shared / case.name
    (folder / "tmp").mkdir(parents=True)
    variables = environment(checkout, shared) | {"TMPDIR": str(folder / "tmp")}
    recipe = _prepared(case, checkout, folder) if case.made else case.recipe
    command = [*program(checkout, variables, folder), "run", str(recipe), "--out", str(folder / "out")]
    if recipe.is_file() and CODE.search(recipe.read_text(encoding="utf-8")):
        command.append("--allow-code")
    where = {str(folder): "<folder>", str(checkout): "<checkout>"}
    try:
        ended = subprocess.run(
            command, env=variables, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=LIMIT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Ran(f"ran past {LIMIT_S} s", "", folder / "out", where)
    return Ran(ended.returncode, ended.stderr, folder / "out", where)


def machine() -> dict[str, str | int | None]:
    """What results depend on besides qtool."""
    found: dict[str, str | int | None] = {"python": platform.python_version(), "cpus": os.cpu_count()}
    found["cpu"] = _processor()
    for name in ("numpy", "onnx", "onnxruntime", "numba", "tensorrt", "tensorrt-rtx"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _prepared(case: Case, checkout: Path, folder: Path) -> Path:
    """Copy the recipe and its model into the folder, and make the samples there."""
    recipe = folder / case.recipe.name
    shutil.copy(case.recipe, recipe)
    name = Path(tomllib.loads(recipe.read_text(encoding="utf-8"))["model"]["path"]).name
    source = next((place / name for place in (LIGHT, checkout / "models") if (place / name).is_file()), None)
    if source is None:
        raise SystemExit(f"{case.recipe}: no model {name} in {LIGHT} or {checkout / 'models'}")
    shutil.copy(source, folder / name)
    samples: dict[str, Any] = dict(_samples(onnx.load(source).graph))
    np.savez(folder / "calibration.npz", **samples)
    return recipe


def _samples(graph: onnx.GraphProto) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    constant = {one.name for one in graph.initializer}
    rng = np.random.default_rng(SEED)
    for one in graph.input:
        if one.name not in constant:
            shape = [dim.dim_value or 1 for dim in one.type.tensor_type.shape.dim][1:]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(one.type.tensor_type.elem_type)
            yield one.name, rng.standard_normal((SAMPLES, *shape)).astype(dtype)
