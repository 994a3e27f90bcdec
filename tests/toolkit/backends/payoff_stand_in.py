"""A backend that builds nothing: the latency of an engine follows from where the pairs are, by a truth known here."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import onnx

from toolkit.backends.layers.layer import Build, Layer, Port
from toolkit.base.errors import BackendError
from toolkit.base.progress import silent
from toolkit.contract.bench import TurnsFound

HALF_SPREAD, DRIFT = 0.02, 0.002


class StandIn:
    """An engine's time is the sum over its layers, in every profile times the profile's factor.

    Args:
        plain: node name to milliseconds in float.
        quantized: node name to milliseconds with its pairs, its Q/DQ and reformats included.
        factors: profile to what all times are multiplied by.
        opaque: whether one block hides all layers, until tensors are marked.
        noisy: whether single inferences spread, and builds drift.
        refuse: called with the names of quantized layers, or the tensors marked; it returns why the build fails.
        timed: whether layers have times.
        seconds: how long a build takes.

    ``built`` has the quantized layers of every engine, ``levels`` the builder optimization level that was asked for,
    ``caches`` its timing cache. ``room`` is the memory for engines beside others.
    """

    name = "tensorrt"
    typing = "strong"

    def __init__(self, plain, quantized, factors=None, opaque=False, noisy=True, refuse=None, timed=True, seconds=1.0):
        self.plain, self.quantized, self.factors = plain, quantized, factors or {"default": 1.0}
        self.opaque, self.noisy, self.refuse, self.timed = opaque, noisy, refuse or (lambda names: ""), timed
        self.seconds, self.room = seconds, 0
        self.built: list[frozenset[str]] = []
        self.levels: list[int | None] = []
        self.caches: list[Path | None] = []
        self.opened: list[tuple[str, ...]] = []

    def typing_for(self, settings):
        return self.typing

    def version(self):
        return "0.0"

    def cannot_measure(self):
        return ""

    def parallel_build_memory(self):
        return self.room

    def in_turn(self, engines, profiles, progress=silent):
        random, turns = np.random.default_rng(len(self.built)), {}
        for name, file in engines.items():
            for profile, milliseconds in self.truth(frozenset(json.loads(file.read_bytes()))).items():
                spread = random.uniform(-DRIFT, DRIFT, 5) if self.noisy else np.zeros(5)
                turns.setdefault(profile, {})[name] = [float(one) for one in milliseconds * (1 + spread)]
        return TurnsFound(turns)

    def max_opset(self):
        return 23

    def unbuilt(self):
        return {}

    def parse(self, model_path, profiles, settings):
        """It reads every model."""

    def truth(self, names):
        """Milliseconds by profile of the engine whose named layers are quantized."""
        total = sum(self.quantized[n] if n in names else self.plain[n] for n in self.plain)
        return {profile: factor * total for profile, factor in self.factors.items()}

    def build(self, model_path, profiles, settings, log=silent, progress=silent, extras=None):
        model = onnx.load(Path(model_path))
        makers = {out: node for node in model.graph.node for out in node.output}

        def from_pair(name):
            return name in makers and makers[name].op_type in ("DequantizeLinear",)

        nodes = [node for node in model.graph.node if node.name in self.plain]
        inside = frozenset(node.name for node in nodes if from_pair(node.input[0]))
        self.built.append(inside)
        self.levels.append(settings.optimization_level)
        self.caches.append(settings.timing_cache)
        progress("building", 0, 1)
        marked = extras.opened if extras is not None else ()
        self.opened.append(marked)
        why = self.refuse(marked or inside)
        if why:
            raise BackendError(why, where="the stand-in", remedy="none")
        random = np.random.default_rng(zlib.crc32(repr((sorted(inside), len(self.built))).encode()))
        latency, times, layers = {}, {}, []
        for number, (profile, truth) in enumerate(self.truth(inside).items()):
            drift = 1 + (random.uniform(-DRIFT, DRIFT) if self.noisy else 0.0)
            runs = truth * drift * (1 + (random.uniform(-HALF_SPREAD, HALF_SPREAD, 200) if self.noisy else np.zeros(1)))
            low, middle, high = (float(np.percentile(runs, p)) for p in (5, 50, 95))
            latency[profile] = {"min": middle, "opt": middle, "max": middle, "opt p05": low, "opt p95": high}
            for name, milliseconds, layer in self._layers(nodes, inside, profile, number, self.opaque and not marked):
                times.setdefault(name, {})[profile] = milliseconds
                layers.append(layer)
        return Build(
            "tensorrt", "0.0", json.dumps(sorted(inside)).encode(), layers, "inspector", {}, [], self.seconds,
            {**settings.model_dump(mode="json"), "profiles": profiles.names}, times if self.timed else {}, latency,
        )  # fmt: skip

    def _layers(self, nodes, inside, profile, number, opaque):
        factor = self.factors[profile]
        if opaque:
            total = sum(self.quantized[n.name] if n.name in inside else self.plain[n.name] for n in nodes)
            block = f"{{ForeignNode[{nodes[0].name}...{nodes[-1].name}]}}"
            first, last = Port(nodes[0].input[0], "fp16"), Port(nodes[-1].output[0], "fp16")
            yield block, total * factor, Layer(block, "Myelin", (first,), (last,), profile=number)
            return
        for node in nodes:
            # with pairs a tenth of the time is the kernel's, the rest a reformat before it, which no node's name is on
            milliseconds = self.quantized[node.name] if node.name in inside else self.plain[node.name]
            share = 0.1 if node.name in inside else 1.0
            reads = Port(f"{node.name}_in", "int8" if node.name in inside else "fp16")
            writes = Port(node.output[0], "fp16")
            layer = Layer(node.name, "CaskConvolution", (reads,), (writes,), nodes=(node.name,), profile=number)
            yield node.name, milliseconds * share * factor, layer
            if share < 1:
                name = f"Reformatting CopyNode for Input Tensor 0 to {node.name}"
                copy = Layer(name, "Reformat", (Port(node.input[0], "fp16"),), (reads,), profile=number)
                yield name, milliseconds * (1 - share) * factor, copy
