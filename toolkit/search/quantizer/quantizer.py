"""The base class of quantizing passes: they decide where pairs go; insertion, search and timing are inherited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import onnx_graphsurgeon as gs
from pydantic import Field, NonNegativeFloat

from toolkit.base.errors import QtoolError, RangesError, RecipeError
from toolkit.base.precision import FLOATS, Precision
from toolkit.base.text import count
from toolkit.contract.bench import Bench, Candidate
from toolkit.contract.context import Context
from toolkit.contract.findings import Code, Finding
from toolkit.contract.passes import Pass
from toolkit.contract.plan import PrecisionPlan
from toolkit.contract.ranges import Ranges
from toolkit.contract.registry import pass_name
from toolkit.contract.roles import Role
from toolkit.graph.model import Model
from toolkit.graph.shape_inference.facts import Facts
from toolkit.graph.surgery.tensors import SHORT_FLOATS
from toolkit.placement.attention import scale_queries
from toolkit.placement.codes import PlacementCode
from toolkit.placement.dequantized import source
from toolkit.placement.explained import earlier_findings, explained
from toolkit.placement.pairs import Placement, release_placer
from toolkit.placement.place import Judge
from toolkit.placement.qdq import pairs_opset
from toolkit.placement.scales import share_amax
from toolkit.search.quantizer.given_ranges import in_form, without_ranges
from toolkit.search.quantizer.pair_insertion import PairInsertion, require_finite
from toolkit.search.trial_engines.faster import not_faster, require_bench, require_profiles, units_of
from toolkit.simulation.rounder import Rounder
from toolkit.simulation.switches import wanted_tensors


class Quantizer(Pass):
    """A pass that quantizes with Q/DQ pairs. Subclasses decide where pairs go in ``place``; the rest is inherited.

    The search, ``qtool sensitivity``, ``qtool bisect``, ``only_if_faster`` and the report work with every subclass.
    If the context's bench measures engines and prefers speed, pairs that would make the engine slower than the float
    engine are removed in any case.

    Example:
        >>> class LinearOnly(Quantizer):
        ...     name = "linear_only"
        ...     def place(self, model, facts, judge):
        ...         def linear(node):
        ...             return judge(node) or (None if node.op == "Gemm" else f"{node.op} is no Gemm")
        ...         return place(model, facts, linear)
    """

    role: ClassVar[Role | None] = Role.QUANTIZE
    dtype: Literal["int8", "fp8", "int4", "mxfp8", "nvfp4"] = Field(
        "int8", description="the quantized type; of MatMul and Gemm alone: int4 (weights), mxfp8, nvfp4 (for Blackwell)"
    )
    block: Literal[128, 64, 32, 16] = Field(128, description="int4: how many weights share a scale")
    weights: Literal["minmax", "mse", "output"] = Field(
        "minmax",
        description="how weights are rounded: to the nearest level of a range, or, on samples, for the layer's output",
    )
    only_if_faster: bool = Field(False, description="measure engines, and remove the pairs that do not pay off")
    builds: int = Field(10, ge=2, description="only_if_faster: engines to build at most")
    profile_weights: dict[str, NonNegativeFloat] = Field(
        {}, description="weight of a profile's latency where engines are compared; 1 where not named"
    )

    # ---------------------------------------------------------------- for subclasses

    def place(self, model: Model, facts: Facts, judge: Judge) -> Placement:
        """Decide where the pairs go; nodes for which ``judge`` returns a reason stay float. Changes nothing.

        Args:
            model: the graph, at the opset of the pairs or below.
            facts: its types and shapes at every corner of every profile.
            judge: returns why a node stays float, or None.
        """
        raise NotImplementedError

    def settings_judge(self, model: Model) -> Judge:
        """Returns a function of a node: why the settings keep it float, or None. By default it is always None."""
        return lambda node: None

    def insists_on(self, op: str) -> bool:
        """Whether the settings name an operator: then it is quantized even if the backend has no kernel for it."""
        return op in getattr(self, "include_ops", ())

    def plain(self) -> Quantizer:
        """A copy of the pass that inserts the same pairs without measuring or searching."""
        return self.model_copy(update={"only_if_faster": False})

    # ---------------------------------------------------------------- for the run

    @property
    def precision(self) -> Precision:
        """The quantized type."""
        return Precision(self.dtype)

    def types(self) -> set[Precision]:
        """The quantized types that the pass may use in the model and the GPU must support."""
        return {self.precision}

    def unused_settings(self) -> dict[str, str]:
        """As in Pass; and ``block`` for a type without blocks, and ``builds`` if no engines are built."""
        found = super().unused_settings()
        if not self.precision.weights_only:
            found["block"] = f"block is a setting of int4, and dtype is '{self.dtype}'"
        if not self.only_if_faster:
            found["builds"] = "it limits the engines that only_if_faster = true builds"
        return found

    def reads_evaluation(self) -> bool:
        """Reads no evaluation samples: inserting pairs only uses calibration samples."""
        return False

    def measures_engines(self) -> bool:
        """Whether engines are measured to remove pairs that do not pay off."""
        return self.only_if_faster

    def ranges_wanted(self, model: Model, context: Context) -> Sequence[str] | None:
        """The activations that get pairs; the model is prepared for the pairs."""
        self.without_dead_nodes(model, context)
        placement = self.prepare(model, context)
        release_placer(placement)
        return placement.activations or None

    # ---------------------------------------------------------------- the pass

    def apply(self, model: Model, context: Context) -> None:
        """Place and insert the pairs; the journal says for every other node why it is declined.

        Raises:
            RecipeError: a pattern matches nothing, or ``only_if_faster`` is set and engines cannot be measured.
            RangesError: a range is needed and there is no calibration data, or a range is not finite.
            BackendError: ``only_if_faster`` is set, and the engine without pairs cannot be built.
        """
        self.without_dead_nodes(model, context)
        self.require_profiles(context)
        slow: dict[str, Finding] = {}
        if self.only_if_faster:
            # raises before anything is calibrated
            bench = require_bench(context)
            if context.dry_run:
                context.journal.noted(Code.DRY_RUN(step="engines"))
            else:
                slow = self._not_faster(model, context, bench, self.builds)
        elif self.guards_speed(context) and not context.dry_run:
            assert context.bench is not None
            slow = self._no_slower(model, context, context.bench)
        self.insert(model, context, slow)

    def require_profiles(self, context: Context) -> None:
        """Check that ``profile_weights`` names profiles of the recipe, whether engines are measured or not.

        Raises:
            RecipeError: see ``faster.require_profiles``.
        """
        if self.profile_weights:
            require_profiles(self.profile_weights, [profile.name for profile in context.profiles] or ["default"])

    def without_dead_nodes(self, model: Model, context: Context) -> None:
        """Remove nodes that no output depends on, so that nothing is decided or measured for them."""
        before = set(model.node_names())
        model.tidy()
        gone = sorted(before - set(model.node_names()))
        if gone:
            context.journal.noted(Code.DEAD_NODES(nodes=gone))

    def guards_speed(self, context: Context) -> bool:
        """Whether pairs that make the engine slower than the float engine are removed even if not requested."""
        bench = context.bench
        return bench is not None and bench.prefers_speed and not bench.implicit and not bench.cannot_measure()

    def _no_slower(self, model: Model, context: Context, bench: Bench) -> dict[str, Finding]:
        """The nodes whose pairs would make the engine slower than the float engine, each with the reason.

        Empty if engines cannot be measured: the journal says why, and building the engine will fail.
        """
        try:
            return self._not_faster(model, context, bench, None)
        except QtoolError as error:
            context.journal.noted(Code.SPEED_UNKNOWN(why=str(error)))
            return {}

    def _not_faster(self, model: Model, context: Context, bench: Bench, builds: int | None) -> dict[str, Finding]:
        """The nodes whose pairs do not pay off, each with the reason; see ``not_faster``."""
        placement = self.placement(model, context)
        release_placer(placement)
        if not units_of(model, placement):
            return {}
        release_placer(placement := self.prepare(model, context))
        # calibrated here, so that all trials and the run itself share the ranges
        ranges = self.ranges(model, placement, context)
        return not_faster(
            self.candidate(model, context), units_of(model, placement), bench, ranges, context,
            words=(self.dtype, str(context.rest)), builds=builds, weights=self.profile_weights,
        )  # fmt: skip

    def ranges(self, model: Model, placement: Placement, context: Context) -> Ranges | None:
        """The ranges of the activations that get pairs; None if there are none."""
        activations = placement.activations
        return context.ranges(model, activations, self.precision) if activations else None

    def candidate(self, model: Model, context: Context) -> Candidate:
        """Returns a function that takes nodes with reasons and creates the model and plan without their pairs.

        ``model`` and ``context`` are not changed.
        """

        def make(slow: Mapping[str, Finding]) -> tuple[Model, PrecisionPlan]:
            trial, apart = model.copy(), context.fork()
            self.insert(trial, apart, slow)
            apart.guard(trial)
            return trial, apart.plan

        return make

    def insert(self, model: Model, context: Context, slow: Mapping[str, Finding] | None = None) -> None:
        """Place and insert the pairs of all nodes except ``slow``, which stay float for the given reasons."""
        slow = slow or {}
        with model.settled():
            placement, amax = self._ranged(model, context, slow)
            pairs = None if context.keeps_graph else PairInsertion(model, context, self.precision, amax)
        if pairs is not None:
            pairs.insert(placement, self.rounder(model, context, placement))
            model.tidy()
        for node, reason in placement.layers.items():
            context.plan.ask(node, self.precision, reason)
        for node, reason in slow.items():
            context.plan.ask(node, context.rest, reason, free=True)
        if self.precision.block and placement.layers:
            context.journal.noted(Code.BLOCKS_SCALED_ON_GPU(precision=self.precision, block=self.precision.block))
        for node in placement.complete:
            context.journal.noted(Code.COMPLETE(), node=node)

    def _ranged(
        self, model: Model, context: Context, slow: Mapping[str, Finding]
    ) -> tuple[Placement, dict[str, float]]:
        """The placement given the ranges that exist, and {activation: amax}; the journal gets what is declined."""
        placement = self.prepare(model, context, slow)
        release_placer(placement)
        ranges = self.ranges(model, placement, context)
        if context.unranged:
            placement = self.placement(model, context, slow)
            release_placer(placement)
        nodes, said = {node.name: node for node, _ in model.walk()}, earlier_findings(context.journal)
        for refusal in placement.refusals:
            context.journal.declined(refusal.node, explained(nodes[refusal.node], refusal, said))
        lacking = [one for one in placement.refusals if one.why.code in (Code.NO_RANGE, Code.RANGE_OF_OTHER_TYPE)]
        if lacking:
            tensors = list(dict.fromkeys(one.why.values["tensor"] for one in lacking))
            context.journal.noted(Code.RANGES_MISSING(tensors=tensors, nodes=[one.node for one in lacking]))
        amax = {name: ranges.amax(name) for name in placement.activations} if ranges is not None else {}
        require_finite(amax)
        for note in share_amax(model, placement, amax, self.precision):
            context.journal.noted(note)
        return placement, amax

    def plain_rounder(self) -> Rounder:
        """The rounder of weights without samples."""
        return Rounder(self.weights, self.precision, block=self.block if self.precision.weights_only else 0)

    def rounder(self, model: Model, context: Context, placement: Placement | None = None) -> Rounder:
        """The rounder of the weights that get pairs; it is fitted to the calibration samples if the settings say so.

        In a dry run, the ranges of the weights are those of minmax. ``placement`` holds these weights; if None, all
        that these settings would quantize.
        """
        plain = self.plain_rounder()
        if context.dry_run:
            # a dry run keeps no scale, and searching for each is most of its work
            return replace(plain, method="minmax")
        if self.weights != "output":
            return plain
        try:
            data = context.calibration_samples()
        except RangesError:
            context.journal.noted(Code.ROUNDED_WITHOUT_SAMPLES())
            return plain
        placement = placement if placement is not None else self.placement(model, context)
        wanted = {use.node for p in placement.pairs.values() if p.weight for use in p.uses if use.index == 1}
        nodes = [node for node in model.nodes if node.name in wanted]
        # this module's imports take a third of a second
        from toolkit.simulation.output_rounding import rounder_on_samples

        return rounder_on_samples(model, nodes, data, plain, context)

    def placement(self, model: Model, context: Context, slow: Mapping[str, Finding] | None = None) -> Placement:
        """The placement under these settings and the plan so far; changes nothing.

        ``slow`` names nodes that stay float because quantizing them does not pay off, each with the reason.
        """
        return self.place(model, model.facts(context.profiles), self.judge(model, context, slow))

    def judge(self, model: Model, context: Context, slow: Mapping[str, Finding] | None = None) -> Judge:
        """Returns a function of a node: why the settings, the plan so far or a missing range keep it float, or None.

        Ranges that were requested and not found are taken into account from then on.
        """
        allowed = self._judge(model, context, slow)
        if context.can_calibrate:
            return allowed
        lacking = without_ranges(self.place, self.precision, model, context, allowed)
        return lambda node: allowed(node) or lacking.get(node.name)

    def _judge(self, model: Model, context: Context, slow: Mapping[str, Finding] | None) -> Judge:
        """``judge`` without missing ranges; it requests no ranges."""
        own = self.settings_judge(model)

        def judge(node: gs.Node) -> Finding | str | None:
            said = own(node)
            if said is not None:
                return said
            backend = context.lacks_int8(node.op) if self.precision is Precision.INT8 else ""
            if backend and not self.insists_on(node.op):
                return PlacementCode.LACKS_INT8(backend=backend, op=node.op)
            if slow and node.name in slow:
                return Code.NOT_FASTER(why=slow[node.name])
            for name in (source(tensor).name for tensor in node.inputs if context.unranged):
                if name in context.unranged:
                    return Code.UNRANGED(tensor=name, why=context.unranged[name])
            ask = context.plan.get(node.name)
            if ask is not None and ask.precision in FLOATS:
                return Code.KEPT(by=ask.by, precision=ask.precision, why=ask.reason)
            return None

        return judge

    def decides(self, model: Model, context: Context, paired: bool = False) -> bool:
        """Whether these settings would place any pairs; layers that already have pairs are not decided on.

        Args:
            model: the graph; it is not changed.
            context: its journal gets the layers that have pairs.
            paired: whether pairs are expected, so that they are not reported.

        Raises:
            RecipeError: every layer that could be decided on has pairs already, and not from a search.
        """
        placement = self.placement(model, context)
        # a search may be followed by a search for another type in the layers that are left
        asked = {name: ask.by for name in placement.complete if (ask := context.plan.get(name)) is not None}
        before = [] if paired else [name for name in placement.complete if asked.get(name) != self.title()]
        if before:
            if not placement.pairs and len(before) == len(placement.complete):
                raise RecipeError(
                    f"{self.title()} has nothing to decide on: {count(len(before), 'layer')}, such as '{before[0]}', "
                    "had Q/DQ pairs before it",
                    remedy=f"leave out the pass before it that inserts them ({pass_name(Role.QUANTIZE)}), or remove "
                    f"the model's own with {pass_name(Role.STRIP)}",
                )
            context.journal.noted(Code.SEARCH_PAIRED(nodes=before))
        return bool(placement.pairs)

    def wanted(self, model: Model, context: Context) -> list[str]:
        """The activations that some subset of the layers quantizes: a search needs the ranges of all of them."""
        return wanted_tensors(model, model.facts(context.profiles), self.judge(model, context), self.place)

    def prepare(self, model: Model, context: Context, slow: Mapping[str, Finding] | None = None) -> Placement:
        """Raise the opset as the pairs require and scale the queries of attention; returns the placement."""
        with model.settled():
            placement, types = self.placement(model, context, slow), model.facts().types
        half = any(types.get(pair.tensor) in SHORT_FLOATS for pair in placement.pairs.values())
        fresh = model.raise_opset(pairs_opset(self.precision, half)) if placement.pairs else []
        if fresh:
            context.journal.noted(Code.OPSET(to=model.opset, added=len(fresh)))
        known = placement
        if not context.can_calibrate:
            asked = self._judge(model, context, slow)
            known = self.placement(in_form(self.place, model, context, asked), context, slow)
        moved = scale_queries(model, known.layers)
        for node, scores in moved.items():
            context.journal.changed(node, Code.SCALES_QUERIES(scores=scores), Code.FUSED_ATTENTION())
        return self.placement(model, context, slow) if fresh or moved else placement
