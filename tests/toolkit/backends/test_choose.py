"""Which backend is taken, and what is said about the others."""

from __future__ import annotations

import pytest

from toolkit.backends import choose as choosing
from toolkit.backends.backend import EngineSettings
from toolkit.backends.choose import choose
from toolkit.backends.codes import EngineCode
from toolkit.base.errors import BackendError, RecipeError
from toolkit.base.gpu import Gpu
from toolkit.base.profiles import Profiles


@pytest.fixture
def machine(monkeypatch):
    """A machine with the modules given and, where said, a GPU."""

    def make(gpu=False, **modules):
        real = choosing.importlib.util.find_spec

        def find_spec(name, *more):
            return modules.get(name) and object() if name in ("tensorrt", "tensorrt_rtx") else real(name, *more)

        def run_job(job, request):
            found = modules[request["module"]]
            if isinstance(found, str):
                return {"version": found, "strong": True, "weak": True, "implicit": True}
            raise found

        monkeypatch.setattr(choosing.importlib.util, "find_spec", find_spec)
        monkeypatch.setattr(choosing, "find_gpu", lambda: Gpu("H200", "9.0") if gpu else None)
        monkeypatch.setattr(choosing, "run_job", run_job)
        choosing._features.cache_clear()

    yield make
    choosing._features.cache_clear()


def test_tensorrt_first_where_a_gpu_is(machine):
    machine(gpu=True, tensorrt="10.3.0", tensorrt_rtx="1.7")
    backend, why = choose("auto")
    assert backend.name == "tensorrt" and why == EngineCode.BACKEND_CHOSEN(gpu="H200", refused=())


def test_rtx_where_no_gpu_is(machine):
    machine(tensorrt="10.3.0", tensorrt_rtx="1.7")
    backend, why = choose("auto")
    assert backend.name == "tensorrt_rtx"
    refused = "tensorrt is installed but builds only on a GPU, and this machine has none"
    assert why == EngineCode.BACKEND_CHOSEN(gpu=None, refused=(refused,))


def test_none_where_nothing_is(machine):
    machine()
    backend, why = choose("auto")
    assert backend.name == "none"
    assert why == EngineCode.NO_BACKEND_USABLE(refused=("tensorrt is not installed", "tensorrt_rtx is not installed"))


def test_a_broken_module_is_passed_over_and_said(machine):
    machine(gpu=True, tensorrt=BackendError("libnvinfer.so.10: cannot open"), tensorrt_rtx="1.7")
    backend, why = choose("auto")
    assert backend.name == "tensorrt_rtx" and "libnvinfer.so.10: cannot open" in why.values["refused"][0]


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_asked_for_and_missing_is_an_error(machine, name):
    machine(gpu=True)
    with pytest.raises(BackendError, match=rf"{name} is not installed. Run pip install"):
        choose(name)


def test_asked_for_without_a_gpu(machine):
    machine(tensorrt="8.6.0")
    with pytest.raises(BackendError, match=r"this machine has none. Run on a machine with a GPU"):
        choose("tensorrt")


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(RecipeError, match=r"Did you mean 'tensorrt'"):
        choose("tensort")


def test_none_builds_nothing(tmp_path):
    backend, _ = choose("none")
    made = backend.build(tmp_path / "model.onnx", Profiles(), EngineSettings())
    assert made.backend == "none" and made.engine is None and made.source == "none"
    assert backend.typing == "strong" and backend.version() == ""


@pytest.mark.rtx
def test_the_real_probe():
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    choosing._features.cache_clear()
    backend, why = choose("tensorrt_rtx")
    assert backend.version() and why == EngineCode.BACKEND_REQUESTED()


@pytest.mark.parametrize(
    "wrong", [{"compute_capabilities": ["89"]}, {"optimization_level": 7}, {"workspace": 0}, {"nonsense": 1}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        EngineSettings(**wrong)
