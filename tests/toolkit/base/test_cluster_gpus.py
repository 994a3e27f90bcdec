"""Which GPUs of a cluster tasks get, with a stand-in for Ray."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from toolkit.base import cluster
from toolkit.base.errors import QtoolError


class RayError(Exception):
    pass


class GetTimeoutError(RayError):
    pass


class Ray:
    """A cluster that gives its GPUs in order; one may be an error to raise in place of an answer."""

    exceptions = SimpleNamespace(RayError=RayError, GetTimeoutError=GetTimeoutError)

    def __init__(self, *gpus):
        self.gpus, self.held = gpus, []

    def cluster_resources(self):
        return {"GPU": float(len(self.gpus))}

    def remote(self, kind):
        return self

    def options(self, **needs):
        return SimpleNamespace(remote=self._actor)

    def _actor(self):
        uuid = self.gpus[len(self.held)]
        actor = SimpleNamespace(uuid=uuid, gpu=SimpleNamespace(remote=lambda: uuid))
        self.held.append(actor)
        return actor

    def get(self, answer, timeout):
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, actor):
        self.held.remove(actor)


@pytest.mark.parametrize(
    ("gpus", "others", "kept"),
    [
        (("own",), 0, ["own"]), (("a", "own", "b"), 2, ["own"]), (("a", "b"), 2, []), ((), 0, []),
        (("a", GetTimeoutError()), 0, []),
    ],
)  # fmt: skip
def test_tasks_get_all_gpus_but_the_one_in_use(monkeypatch, gpus, others, kept):
    ray = Ray(*gpus)
    monkeypatch.setattr(cluster, "gpu_uuid", lambda: "own")
    place = cluster.Cluster("ray://nowhere:1")
    vars(place)["ray"] = ray
    with place._others_than_own() as found:
        assert found == others and [actor.uuid for actor in ray.held] == kept
    assert not ray.held


@pytest.mark.parametrize("error", [RayError("gone"), ConnectionError("gone")])
def test_a_cluster_that_goes_meanwhile_is_told_and_holds_nothing(monkeypatch, error):
    ray = Ray("a", error)
    monkeypatch.setattr(cluster, "gpu_uuid", lambda: "own")
    place = cluster.Cluster("ray://nowhere:1")
    vars(place)["ray"] = ray
    with pytest.raises(QtoolError, match="no longer answers: gone"), place._others_than_own():
        pass
    assert not ray.held
