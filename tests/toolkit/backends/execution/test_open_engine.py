"""Opening an engine's bytes: plugins are registered first, and what cannot be opened is said."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from toolkit.backends.building.messages import Messages
from toolkit.backends.execution.open_engine import open_engine
from toolkit.backends.processes.channel import Channel
from toolkit.base.errors import BackendError


def module(done, engine, plugins=True):
    """A TensorRT that keeps what it was asked, in order."""

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger):
            done.append("runtime")

        def deserialize_cuda_engine(self, content):
            done.append((content, self.engine_host_code_allowed))
            return engine

    names = (
        {"init_libnvinfer_plugins": lambda logger, namespace: done.append(("plugins", namespace))} if plugins else {}
    )
    return SimpleNamespace(__version__="8.6.0", Runtime=Runtime, **names)


@pytest.fixture
def messages(monkeypatch, tmp_path):
    with (tmp_path / "said").open("w") as stream:
        said = Messages(Channel(stream))
        monkeypatch.setattr(said, "logger", lambda trt: None)
        yield said


@pytest.mark.parametrize("plugins", [True, False])
@pytest.mark.parametrize("host_code", [True, False])
def test_plugins_are_registered_before_the_engine_is_opened(messages, plugins, host_code):
    done = []
    assert open_engine(module(done, "engine", plugins), b"plan", messages, "here", host_code) == "engine"
    assert done == [*([("plugins", "")] if plugins else []), "runtime", (b"plan", host_code)]


def test_an_engine_that_cannot_be_opened(messages):
    with pytest.raises(BackendError) as caught:
        open_engine(module([], None), b"plan", messages, "fp16.engine", True)
    assert "fp16.engine" in caught.value.where
