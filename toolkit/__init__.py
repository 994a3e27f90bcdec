"""qtool: from a float ONNX model to a mixed-precision TensorRT engine, with the precision of every layer explained.

Everything public is here and is loaded when first used, so that ``import toolkit`` stays light. ``passes/README.md``
shows the surface by example.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from toolkit.base.version import __version__

if TYPE_CHECKING:
    from toolkit.backends.lowering.strong import lower as lower
    from toolkit.backends.trials.bench import EngineBench as EngineBench
    from toolkit.base.errors import DataError as DataError
    from toolkit.base.errors import ModelError as ModelError
    from toolkit.base.errors import NotAllowedError as NotAllowedError
    from toolkit.base.errors import PassError as PassError
    from toolkit.base.errors import QtoolError as QtoolError
    from toolkit.base.errors import RangesError as RangesError
    from toolkit.base.errors import RecipeError as RecipeError
    from toolkit.base.errors import did_you_mean as did_you_mean
    from toolkit.base.files import write_json as write_json
    from toolkit.base.precision import FLOATS as FLOATS
    from toolkit.base.precision import Precision as Precision
    from toolkit.base.profiles import Extent as Extent
    from toolkit.base.profiles import Profiles as Profiles
    from toolkit.base.profiles import ShapeProfile as ShapeProfile
    from toolkit.base.settings import ByteSize as ByteSize
    from toolkit.base.text import count as count
    from toolkit.base.text import literal_glob as literal_glob
    from toolkit.base.types import Array as Array
    from toolkit.calibration.float_range import precision_risks as precision_risks
    from toolkit.calibration.provider import Calibrator as Calibrator
    from toolkit.contract.bench import Bench as Bench
    from toolkit.contract.bench import Measurement as Measurement
    from toolkit.contract.context import Context as Context
    from toolkit.contract.evaluation import Evaluation as Evaluation
    from toolkit.contract.evaluation import Limits as Limits
    from toolkit.contract.findings import Code as Code
    from toolkit.contract.findings import Finding as Finding
    from toolkit.contract.helper import Helper as Helper
    from toolkit.contract.installed import installed_passes as installed_passes
    from toolkit.contract.journal import Journal as Journal
    from toolkit.contract.passes import Pass as Pass
    from toolkit.contract.passes import Sequence as Sequence
    from toolkit.contract.plan import PrecisionPlan as PrecisionPlan
    from toolkit.contract.ranges import Range as Range
    from toolkit.contract.ranges import Ranges as Ranges
    from toolkit.contract.registry import configure_pass as configure_pass
    from toolkit.contract.registry import find_pass as find_pass
    from toolkit.contract.registry import passes_with_role as passes_with_role
    from toolkit.contract.roles import Harm as Harm
    from toolkit.contract.roles import Role as Role
    from toolkit.data.dataset import CalibrationData as CalibrationData
    from toolkit.evaluation.saturation import rank_in_samples as rank_in_samples
    from toolkit.evaluation.saturation import saturation as saturation
    from toolkit.evaluation.strip_check import compare_stripped as compare_stripped
    from toolkit.graph.folding import Folded as Folded
    from toolkit.graph.folding import fix_dimensions as fix_dimensions
    from toolkit.graph.folding import fixed_dimensions as fixed_dimensions
    from toolkit.graph.folding import fold as fold
    from toolkit.graph.layers.bias import BiasPlace as BiasPlace
    from toolkit.graph.layers.bias import bias_place as bias_place
    from toolkit.graph.layers.bias import response as response
    from toolkit.graph.layers.bias import restore_bias as restore_bias
    from toolkit.graph.layers.bias import rounding_correction as rounding_correction
    from toolkit.graph.layers.constants import is_random as is_random
    from toolkit.graph.layers.forms import Forms as Forms
    from toolkit.graph.layers.forms import constant_affine as constant_affine
    from toolkit.graph.layers.input_mean import is_bias_corrected as is_bias_corrected
    from toolkit.graph.layers.input_mean import note_bias_corrected as note_bias_corrected
    from toolkit.graph.layers.input_mean import note_correction as note_correction
    from toolkit.graph.layers.input_mean import note_input_mean as note_input_mean
    from toolkit.graph.layers.layer_weights import LayerWeights as LayerWeights
    from toolkit.graph.layers.layer_weights import bias_of as bias_of
    from toolkit.graph.layers.layer_weights import has_other_bias as has_other_bias
    from toolkit.graph.layers.macs import macs as macs
    from toolkit.graph.layers.work import Work as Work
    from toolkit.graph.layers.work import facts_at_opt as facts_at_opt
    from toolkit.graph.layers.work import role as role
    from toolkit.graph.layers.work import work_of as work_of
    from toolkit.graph.model import Model as Model
    from toolkit.graph.proto.names import Names as Names
    from toolkit.graph.select import choose as choose
    from toolkit.graph.sessions.session import session as session
    from toolkit.graph.shape_inference.facts import Facts as Facts
    from toolkit.graph.surgery.tensors import FLOAT_TYPES as FLOAT_TYPES
    from toolkit.graph.surgery.tensors import make_constant as make_constant
    from toolkit.graph.surgery.tensors import make_node as make_node
    from toolkit.graph.surgery.tensors import onnx_type as onnx_type
    from toolkit.graph.surgery.tensors import reroute as reroute
    from toolkit.graph.surgery.tensors import values_of as values_of
    from toolkit.placement.borders import note_borders as note_borders
    from toolkit.placement.borders import pairs_and_borders as pairs_and_borders
    from toolkit.placement.borders import write_border_outputs as write_border_outputs
    from toolkit.placement.clamps import Clamp as Clamp
    from toolkit.placement.clamps import LostClamps as LostClamps
    from toolkit.placement.clamps import lost_clamps as lost_clamps
    from toolkit.placement.clipped_weights import clamp_weights as clamp_weights
    from toolkit.placement.existing import ExistingPair as ExistingPair
    from toolkit.placement.existing import HalfPair as HalfPair
    from toolkit.placement.existing import half_pairs as half_pairs
    from toolkit.placement.existing import pairs_of as pairs_of
    from toolkit.placement.float_path import FloatPath as FloatPath
    from toolkit.placement.keep import keep_float as keep_float
    from toolkit.placement.layers import WeightedLayer as WeightedLayer
    from toolkit.placement.layers import constant_through_pair as constant_through_pair
    from toolkit.placement.layers import layers as layers
    from toolkit.placement.neighbours import free_neighbours as free_neighbours
    from toolkit.placement.ops import DEQUANTIZE as DEQUANTIZE
    from toolkit.placement.ops import MOVERS as MOVERS
    from toolkit.placement.ops import POOLS as POOLS
    from toolkit.placement.ops import QUANTIZE as QUANTIZE
    from toolkit.placement.ops import TARGETS as TARGETS
    from toolkit.placement.ops import weight_axis as weight_axis
    from toolkit.placement.pairs import Placement as Placement
    from toolkit.placement.place import Judge as Judge
    from toolkit.placement.place import place as place
    from toolkit.placement.qdq import bypass as bypass
    from toolkit.placement.qdq import storable_scale as storable_scale
    from toolkit.placement.qdq import without_pairs as without_pairs
    from toolkit.report.findings import sentence as sentence
    from toolkit.run.pipeline import run as run
    from toolkit.run.recipe.recipe import Recipe as Recipe
    from toolkit.run.result import Result as Result
    from toolkit.search.budget.samples import refuse_without_samples as refuse_without_samples
    from toolkit.search.budget.settings import SearchSettings as SearchSettings
    from toolkit.search.cost.gpus import gpu_spec as gpu_spec
    from toolkit.search.plan_search import PlanSearch as PlanSearch
    from toolkit.search.quantizer.attention_pairs import attention_pays as attention_pays
    from toolkit.search.quantizer.prebuild_float import prebuild_float as prebuild_float
    from toolkit.search.quantizer.quantizer import Quantizer as Quantizer
    from toolkit.search.stages.real_types import Lower as Lower
    from toolkit.search.trial_engines.faster import require_bench as require_bench
    from toolkit.search.with_helpers import with_helpers as with_helpers
    from toolkit.simulation.channels import collect_channels as collect_channels
    from toolkit.simulation.channels import forget_ranges as forget_ranges
    from toolkit.simulation.channels import sqnr_against as sqnr_against
    from toolkit.simulation.layer_errors import ChannelErrors as ChannelErrors
    from toolkit.simulation.layer_errors import RoundedLayer as RoundedLayer
    from toolkit.simulation.layer_errors import collect_output_errors as collect_output_errors
    from toolkit.simulation.layer_errors import rounded_layers as rounded_layers
    from toolkit.simulation.layer_inputs import collect_rows as collect_rows
    from toolkit.simulation.layer_inputs import has_input_rows as has_input_rows
    from toolkit.simulation.layer_noise import LayerNoise as LayerNoise
    from toolkit.simulation.switches import fake_quantized as fake_quantized
    from toolkit.simulation.switches import wanted_tensors as wanted_tensors

_HOMES = {
    "backends.trials.bench": "EngineBench",
    "backends.lowering.strong": "lower",
    "base.errors": "DataError ModelError NotAllowedError PassError QtoolError RangesError RecipeError did_you_mean",
    "base.files": "write_json",
    "base.precision": "FLOATS Precision",
    "base.profiles": "Extent Profiles ShapeProfile",
    "base.settings": "ByteSize",
    "base.text": "count literal_glob",
    "base.types": "Array",
    "calibration.float_range": "precision_risks",
    "calibration.provider": "Calibrator",
    "contract.bench": "Bench Measurement",
    "contract.context": "Context",
    "contract.evaluation": "Evaluation Limits",
    "contract.findings": "Code Finding",
    "contract.helper": "Helper",
    "contract.installed": "installed_passes",
    "contract.journal": "Journal",
    "contract.passes": "Pass Sequence",
    "contract.plan": "PrecisionPlan",
    "contract.ranges": "Range Ranges",
    "contract.registry": "configure_pass find_pass passes_with_role",
    "contract.roles": "Harm Role",
    "data.dataset": "CalibrationData",
    "evaluation.saturation": "rank_in_samples saturation",
    "evaluation.strip_check": "compare_stripped",
    "graph.layers.bias": "BiasPlace bias_place rounding_correction response restore_bias",
    "graph.layers.constants": "is_random",
    "graph.shape_inference.facts": "Facts",
    "graph.folding": "Folded fix_dimensions fixed_dimensions fold",
    "graph.layers.forms": "Forms constant_affine",
    "graph.layers.input_mean": "is_bias_corrected note_correction note_input_mean note_bias_corrected",
    "graph.layers.layer_weights": "LayerWeights bias_of has_other_bias",
    "graph.layers.macs": "macs",
    "graph.proto.names": "Names",
    "graph.model": "Model",
    "graph.select": "choose",
    "graph.sessions.session": "session",
    "graph.surgery.tensors": "FLOAT_TYPES make_constant make_node onnx_type reroute values_of",
    "graph.layers.work": "Work facts_at_opt role work_of",
    "placement.borders": "note_borders pairs_and_borders write_border_outputs",
    "placement.clamps": "Clamp LostClamps lost_clamps",
    "placement.clipped_weights": "clamp_weights",
    "placement.existing": "ExistingPair HalfPair half_pairs pairs_of",
    "placement.float_path": "FloatPath",
    "placement.keep": "keep_float",
    "placement.layers": "WeightedLayer constant_through_pair layers",
    "placement.neighbours": "free_neighbours",
    "placement.ops": "DEQUANTIZE MOVERS POOLS QUANTIZE TARGETS weight_axis",
    "placement.pairs": "Placement",
    "placement.place": "Judge place",
    "placement.qdq": "bypass storable_scale without_pairs",
    "report.findings": "sentence",
    "run.pipeline": "run",
    "run.result": "Result",
    "run.recipe.recipe": "Recipe",
    "search.budget.samples": "refuse_without_samples",
    "search.quantizer.attention_pairs": "attention_pays",
    "search.trial_engines.faster": "require_bench",
    "search.quantizer.prebuild_float": "prebuild_float",
    "search.cost.gpus": "gpu_spec",
    "search.with_helpers": "with_helpers",
    "search.plan_search": "PlanSearch",
    "search.stages.real_types": "Lower",
    "search.budget.settings": "SearchSettings",
    "search.quantizer.quantizer": "Quantizer",
    "simulation.channels": "collect_channels forget_ranges sqnr_against",
    "simulation.layer_errors": "ChannelErrors RoundedLayer collect_output_errors rounded_layers",
    "simulation.layer_inputs": "collect_rows has_input_rows",
    "simulation.layer_noise": "LayerNoise",
    "simulation.switches": "fake_quantized wanted_tensors",
}
_HOME = {name: f"toolkit.{module}" for module, names in _HOMES.items() for name in names.split()}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'toolkit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
