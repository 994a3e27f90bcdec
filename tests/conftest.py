"""Shared fixtures: small models built in the test, run in onnxruntime, and a guard against files left behind."""

from __future__ import annotations

import os

# read when numpy is imported: matrices are small here, and threads of BLAS that wait for each other cost a third more
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import functools
import gc
import importlib
import pkgutil
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, settings
from onnx import TensorProto, helper, numpy_helper

import toolkit
from toolkit import Context, Journal, Model, Precision, Ranges
from toolkit.base.types import Array
from toolkit.contract.findings import BaseCode
from toolkit.contract.ranges import Range
from toolkit.report.page import html

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
HANG = 600.0
"""Seconds after which a thread that another one waits for is taken to hang: a busy machine stands still for minutes."""


# how long an example takes says how busy the machine is
settings.register_profile("qtool", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("qtool")


class _OneThread(ort.SessionOptions):
    """onnxruntime's settings, one thread a session unless a test asks for more: the models are small, and several
    processes test at once."""

    def __init__(self) -> None:
        super().__init__()
        self.intra_op_num_threads = 1


_MEMORY = Path("/dev/shm")
_ROOM = 4 << 30
"""Free bytes that it must have: several times what the tests keep at a time."""


def pytest_configure() -> None:
    """Where there is room, temporary files lie in memory, for the processes that the tests start too.

    A run writes dozens of small files, and creating and replacing these on a disk takes a tenth of a small run.
    """
    if "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _ROOM:
        os.environ["TMPDIR"], tempfile.tempdir = str(_MEMORY), None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """What is collected stays: looking through it for garbage takes a seventh of the time."""
    gc.disable()
    try:
        _import_own_share(session)
        return (yield)
    finally:
        gc.enable()


def _import_own_share(session: pytest.Session) -> None:
    """Of several processes each begins with other files, whose rewritten assertions the others then find on the disk."""
    given = getattr(session.config, "workerinput", None)
    whole = {ROOT / name for name in session.config.getini("testpaths")}
    if (
        given is None
        or sys.dont_write_bytecode
        or {session.config.rootpath / one for one in session.config.args} != whole
    ):
        return
    files = sorted(path for folder in whole for path in folder.rglob("test_*.py"))
    for path in files[int(given["workerid"].removeprefix("gw")) :: given["workercount"]]:
        # what cannot be imported is said by the collection, which tries it again
        with suppress(Exception, pytest.skip.Exception):
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


_LONGEST = (
    "test_cluster.py", "test_readme.py", "test_metric.py", "test_kills.py", "test_campaign.py", "test_damage.py",
    "test_large.py", "test_state_run.py", "test_simulation.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest begin: each process takes one file after the other, and none shall end with these."""
    order = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


_DRAWN: list[tuple[np.random.Generator, Mapping[str, Any]]] = []
"""The random generators of test modules, as they are after collection."""


def pytest_collection_finish(session: pytest.Session) -> None:
    """Find the generators that test modules share among their tests."""
    modules = {item.module for item in session.items if isinstance(item, pytest.Function)}
    drawn = {
        id(one): one for module in modules for one in vars(module).values() if isinstance(one, np.random.Generator)
    }
    _DRAWN[:] = [(one, one.bit_generator.state) for one in drawn.values()]


@pytest.fixture(autouse=True)
def _the_same_numbers_in_any_order() -> None:
    """What a test draws does not depend on the tests that ran before it."""
    for generator, state in _DRAWN:
        generator.bit_generator.state = state


@pytest.fixture(autouse=True)
def _one_at_a_time_on_the_gpu(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """What measures on a GPU waits until no other process of these tests does, on the GPUs that it sees."""
    if request.node.get_closest_marker("gpu") is None:
        yield
        return
    import fcntl

    seen = re.sub(r"\W", "_", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    with open(tmp_path_factory.getbasetemp().parent / f"gpu{seen}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(autouse=True, scope="session")
def _quick() -> Iterator[None]:
    """What a process would do once, done once for all tests: templates compiled; no waiting for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ort, "SessionOptions", _OneThread)
        patch.setattr(html, "environment", functools.cache(html.environment))
        patch.setattr(os, "fsync", lambda file: None)
        # a command under test would take it for its own end, and the tests would go on
        signal.signal(signal.SIGTERM, _end)
        yield


def _end(number: int, frame: FrameType | None) -> None:
    """End at once, as a process does that heeds no signal."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def load_all() -> None:
    """Import every module of the toolkit."""
    for module in pkgutil.walk_packages(toolkit.__path__, "toolkit."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


@pytest.fixture(autouse=True, scope="session")
def _all_loaded() -> None:
    """No module is loaded while a test has something replaced, which it would take over for all tests to come."""
    load_all()
    # what stays for good is not looked through for garbage again and again, nor the rest after every few lines
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


@pytest.fixture(autouse=True, scope="session")
def _no_files_left() -> Iterator[None]:
    kept = ("runs", ".git", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", ".import_linter_cache", ".venv", "venv",
            ".gpu")  # fmt: skip

    def files() -> set[Path]:
        return {
            p for p in ROOT.rglob("*")
            if p.is_file() and not any(part in kept or part == "__pycache__" or part.endswith(".egg-info")
                                       for part in p.relative_to(ROOT).parts)
        }  # fmt: skip

    before = files()
    yield
    left = sorted(files() - before)
    assert not left, f"tests left files behind: {[str(p.relative_to(ROOT)) for p in left[:5]]}"


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the samples of models/, not compressed, which is read in a tenth of the time."""
    folder = tmp_path_factory.mktemp("samples")
    for path in MODELS.glob("*.npz"):
        with np.load(path) as stored:
            np.savez(folder / path.name, **stored)
    return folder


def digits_recipe(folder: Path) -> str:
    """The text of the digits recipe, for this folder, into which a smaller model and some of the samples are written."""
    from tests.small_digits import small_digits

    onnx.save(small_digits(), str(folder / "digits.onnx"))
    for name, count in (("digits_calibration.npz", 50), ("digits_test.npz", 100)):
        with np.load(MODELS / name) as stored:
            np.savez(folder / name, **{key: stored[key][:count] for key in stored})
    return (ROOT / "recipes" / "digits_int8.toml").read_text().replace("../models/", "").replace("digits_cnn", "digits")


OLD_ONNXRUNTIME = tuple(int(p) for p in ort.__version__.split(".")[:2]) < (1, 24)
"""The newest onnxruntime for Python 3.10 is 1.23, which lacks what a few tests need."""


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[Any]],
    outputs: Mapping[str, Sequence[Any] | None],
    weights: Mapping[str, Array] | None = None,
    opset: int = 17,
    ir_version: int = 8,
    types: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """A checked ONNX model; inputs and outputs are float32 unless ``types`` says otherwise."""
    types = types or {}
    graph = helper.make_graph(
        list(nodes), "test",
        [helper.make_tensor_value_info(n, types.get(n, TensorProto.FLOAT), s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, types.get(n, TensorProto.FLOAT), s) for n, s in outputs.items()],
        [numpy_helper.from_array(v, n) for n, v in (weights or {}).items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    if all(shape is not None for shape in outputs.values()):
        onnx.checker.check_model(proto)
    return proto


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], name: str = "", **attrs: Any) -> onnx.NodeProto:
    """A node; its name is its first output's unless given."""
    return helper.make_node(op, list(inputs), list(outputs), name=name or outputs[0], **attrs)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    """Seeded normal values, float32."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def run(model: Model | onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """The outputs of a model in onnxruntime, Q/DQ pairs computed as they are written."""
    from toolkit.graph.sessions.session import session

    found = session(model)
    return list(found.run(feeds).values())


def placeholder_context(amax: float = 4.0, **settings: Any) -> Context:
    """A context whose every tensor has the same range."""

    def provider(model: Model, tensors: Sequence[str] | None, dtype: Precision = Precision.INT8) -> Ranges:
        return Ranges({name: Range(amax, "minmax") for name in tensors or ()})

    return Context(provider=provider, **settings)  # type: ignore[arg-type]


def said(journal: Journal, *codes: BaseCode) -> list[Mapping[str, Any]]:
    """The values of what the journal holds of these codes, in order."""
    return [event.why.values for event in journal if event.why.code in codes]


def ops(model: Model) -> dict[str, int]:
    """How many nodes of each operator the model has."""
    found: dict[str, int] = {}
    for one, _ in model.walk():
        found[one.op] = found.get(one.op, 0) + 1
    return found


def residual_proto(opset: int = 17) -> onnx.ModelProto:
    """conv-relu, then a block of two convs with an identity branch, pooled, flattened, into a Gemm."""
    return build(
        [
            node("Conv", ["x", "w0"], ["c0"], pads=[1, 1, 1, 1]),
            node("Relu", ["c0"], ["r0"]),
            node("Conv", ["r0", "w1"], ["c1"], pads=[1, 1, 1, 1]),
            node("Relu", ["c1"], ["r1"]),
            node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
            node("Add", ["c2", "r0"], ["a"]),
            node("Relu", ["a"], ["r2"]),
            node("GlobalAveragePool", ["r2"], ["g"]),
            node("Flatten", ["g"], ["f"]),
            node("Gemm", ["f", "w3", "b3"], ["y"], transB=1),
        ],
        {"x": ["n", 3, 8, 8]},
        {"y": ["n", 5]},
        {
            "w0": normal(8, 3, 3, 3, seed=1, scale=0.3), "w1": normal(8, 8, 3, 3, seed=2, scale=0.2),
            "w2": normal(8, 8, 3, 3, seed=3, scale=0.2), "b2": normal(8, seed=4), "w3": normal(5, 8, seed=5), "b3": normal(5, seed=6),
        },
        opset=opset,
    )  # fmt: skip


@pytest.fixture
def residual() -> Model:
    return Model.from_proto(residual_proto())


@pytest.fixture
def attention() -> Model:
    """One attention block: query, key, value MatMuls with weights, scores and context without, LayerNorm and residual."""
    weights = {f"w{name}": normal(16, 16, seed=i, scale=0.25) for i, name in enumerate("qkvo")}
    weights.update(scale=np.float32(0.25).reshape(()), gain=np.ones(16, np.float32), shift=np.zeros(16, np.float32))
    return Model.from_proto(
        build(
            [
                node("MatMul", ["x", "wq"], ["q"]), node("MatMul", ["x", "wk"], ["k"]), node("MatMul", ["x", "wv"], ["v"]),
                node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
                node("MatMul", ["q", "kt"], ["s"]), node("Mul", ["s", "scale"], ["ss"]), node("Softmax", ["ss"], ["p"], axis=-1),
                node("MatMul", ["p", "v"], ["c"]), node("MatMul", ["c", "wo"], ["o"]), node("Add", ["x", "o"], ["h"]),
                node("LayerNormalization", ["h", "gain", "shift"], ["y"], axis=-1),
            ],
            {"x": ["n", "l", 16]}, {"y": ["n", "l", 16]}, weights,
        )
    )  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a model and give its path."""

    def save(proto: onnx.ModelProto, name: str = "model.onnx") -> Path:
        path = tmp_path / name
        onnx.save(proto, str(path))
        return path

    return save
