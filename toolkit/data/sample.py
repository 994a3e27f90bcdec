"""One sample: the inputs that the model declares, and whether a sample fits them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from toolkit.base.errors import DataError, did_you_mean, shortened
from toolkit.base.profiles import Shapes
from toolkit.base.types import Array
from toolkit.data.arrays import native
from toolkit.graph.interface.channels import channels_read
from toolkit.graph.interface.states import shapes_to_join
from toolkit.graph.model import Model
from toolkit.graph.shape_inference.dimensions import batch_axes, dim_of, is_batch_name, may_be_batch
from toolkit.graph.surgery.tensors import onnx_type

EVERYTHING = "default"
LABELS = ("label", "labels")
InputsAndLabels = tuple[dict[str, Array], dict[str, Array]]
Keep = Callable[[int], bool]


@dataclass(frozen=True)
class InputSpec:
    """The model's declaration of one input.

    Attributes:
        name: name of the input.
        dtype: type of its values.
        dims: per dimension its size if fixed, its name if it has one, else None; ``dims`` is None if not even the rank
            is declared.
        batch_axis: the axis along which samples are joined, see ``toolkit.graph.shape_inference.dimensions``; None
            if there is none.
        used: whether a node reads the input.
        channels: the channel axis that convolutions read, and the number of channels; None if unknown.
    """

    name: str
    dtype: np.dtype[Any]
    dims: tuple[int | str | None, ...] | None
    batch_axis: int | None = None
    used: bool = True
    channels: tuple[int, int] | None = None

    @property
    def shared(self) -> bool:
        """Whether one value is shared by all samples of a batch: a scalar, such as a sampling rate."""
        return self.dims == ()

    @property
    def one_channel(self) -> bool:
        """Whether dimension 1 holds a single channel, according to the model's declaration or its convolutions."""
        declared = self.dims is not None and len(self.dims) > 2 and self.dims[1] == 1
        return declared or self.channels == (1, 1)

    @property
    def chunk(self) -> int:
        """Rows of a stacked array per sample: the size of the first dimension if fixed, else 1."""
        fixed = self.dims[0] if self.dims else None
        return max(1, fixed) if isinstance(fixed, int) else 1


Specs = Mapping[str, InputSpec]


def input_specs(model: Model) -> dict[str, InputSpec]:
    """The declaration of each model input, in order."""
    specs = {}
    axes, channels = batch_axes(shapes_to_join(model)), channels_read(model)
    for tensor in model.graph.inputs:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(onnx_type(tensor.dtype)))
        dims = None if tensor.shape is None else tuple(dim_of(d) for d in tensor.shape)
        specs[tensor.name] = InputSpec(
            tensor.name, dtype, dims, axes.get(tensor.name), bool(tensor.outputs), channels.get(tensor.name)
        )
    return specs


def axes_of(specs: Specs) -> dict[str, int]:
    """Per input, the axis along which samples are joined; empty if samples cannot be joined."""
    axes = {name: spec.batch_axis for name, spec in specs.items() if not spec.shared}
    known = {name: axis for name, axis in axes.items() if axis is not None}
    return known if len(known) == len(axes) else {}


def rows_of(arrays: Mapping[str, Array], axes: Mapping[str, int], rows: Any) -> dict[str, Array]:
    """The samples ``rows`` of joined arrays; arrays without a batch axis are shared and returned unchanged."""
    return {
        name: value[(slice(None),) * axes[name] + (rows,)] if name in axes else value for name, value in arrays.items()
    }


@dataclass(frozen=True)
class Sample:
    """One sample that fits the model.

    Attributes:
        inputs: one array per input, at the input's full rank.
        index: index in the source, counted from 0.
        origin: the file and the position in it, for messages.
        profiles: the profiles that it counts for.
        labels: the expected results by key; empty if the data have none.
        change: ``padded`` or ``cropped`` if it was changed to fit a profile, else empty.
    """

    inputs: dict[str, Array]
    index: int
    origin: str
    profiles: tuple[str, ...] = ()
    labels: dict[str, Array] = field(default_factory=dict)
    change: str = ""

    @property
    def shapes(self) -> Shapes:
        """The shape of every input."""
        return {name: value.shape for name, value in self.inputs.items()}

    @property
    def nbytes(self) -> int:
        """The size of the inputs in bytes."""
        return sum(value.nbytes for value in self.inputs.values())

    def digest(self) -> int:
        """SHA-256 of names, types, shapes and values, as an integer."""
        digest = hashlib.sha256()
        for kind, arrays in (("input", self.inputs), ("label", self.labels)):
            for name, value in sorted(arrays.items()):
                digest.update(f"{kind}\0{name}\0{value.dtype.name}\0{value.shape}\0".encode())
                digest.update(np.ascontiguousarray(value).view(np.uint8).reshape(-1).data if value.size else b"")
        return int.from_bytes(digest.digest(), "big")


class SampleFingerprint:
    """The fingerprint of a set of samples: their number and the sum of their SHA-256, independent of the order.

    Sums of disjoint parts add up to the sum of the whole.
    """

    def __init__(self) -> None:
        self.count = self.total = 0
        self._ordered = hashlib.sha256()

    def add(self, sample: Sample) -> None:
        """Add a sample."""
        digest = sample.digest()
        self.count += 1
        self.total = (self.total + digest) % (1 << 256)
        self._ordered.update(f"{sample.index}:{digest:x};".encode())

    def fingerprint(self) -> str:
        """SHA-256 of the number and the sum."""
        return hashlib.sha256(f"{self.count}:{self.total:064x}".encode()).hexdigest()

    def in_order(self) -> str:
        """SHA-256 of the samples and their indices, in the order they were added."""
        return self._ordered.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """``samples``: their number; ``sum``: the sum in hex."""
        return {"samples": self.count, "sum": f"{self.total:064x}"}


def check_names(found: Sequence[str], specs: Mapping[str, InputSpec], where: str) -> None:
    """Check that every input has values and every key is an input or a label.

    Raises:
        DataError: an input has no values, or a key is neither; the message suggests what it may be.
    """
    strangers = [name for name in found if name not in specs and name not in LABELS]
    missing = sorted((name for name in specs if name not in found), key=lambda name: not specs[name].used)
    if strangers:
        inputs = ", ".join(f"'{name}'" for name in specs)
        raise DataError(
            f"'{shortened(strangers[0])}' is neither an input of the model ({inputs}) nor a label",
            where=where,
            remedy=_instead(strangers, missing, labelled=not set(LABELS).isdisjoint(found)),
        )
    if missing:
        first = specs[missing[0]]
        unused = "" if first.used else ", which no node of the model reads"
        remedy = "give every input of the model: " + ", ".join(f"'{name}'" for name in specs)
        if unused:
            shape = ", ".join("?" if one is None else str(one) for one in first.dims or ())
            remedy = f"remove it from the model, or store any values for it, such as {first.dtype.name} zeros [{shape}]"
        raise DataError(f"there are no values for input '{first.name}'{unused}", where=where, remedy=remedy)


def _instead(strangers: Sequence[str], missing: Sequence[str], labelled: bool) -> str:
    """The remedy for an array of an unknown name, given the inputs that lack values."""
    if len(missing) == len(strangers) == 1:
        return f"store it under the name of input '{missing[0]}', which has no values"
    if missing:
        return did_you_mean(strangers[0], [*missing, *LABELS])
    return "leave it out" if labelled else f"leave it out, or store it under '{LABELS[0]}' if it holds the labels"


def fit_to_specs(values: Mapping[str, Any], specs: Specs, where: str) -> dict[str, Array]:
    """The inputs of one sample, or of several joined samples, each converted to exactly its input's type.

    An axis that is not named as a batch axis may count something else, such as past steps or boxes, and may be empty:
    this means "no sample" only if the axes of all other inputs are empty too.

    Args:
        values: per input, the values in the data.
        specs: the model's declaration of its inputs.
        where: location of the sample, for messages.

    Raises:
        DataError: an input does not fit, see ``fit_to_spec``; or a batch axis is empty.
    """
    fitted = {name: fit_to_spec(values[name], spec, where) for name, spec in specs.items()}
    joined = axes_of(specs)
    none = bool(joined) and not any(fitted[name].shape[axis] for name, axis in joined.items())
    for name, spec in specs.items():
        axis, shape = spec.batch_axis, fitted[name].shape
        if axis is None or shape[axis]:
            continue
        dim = spec.dims[axis] if spec.dims is not None else None
        if is_batch_name(dim) or (none and may_be_batch(dim)):
            raise DataError(
                f"shape {list(shape)} holds no values", where=f"{where}, input '{name}'", remedy="remove the sample"
            )
    return fitted


def fit_to_spec(value: Any, spec: InputSpec, where: str) -> Array:
    """The value as an array of exactly the input's type, checked.

    float64 becomes float32 if no value overflows or vanishes; int32 and int64 are converted to each other if every
    value is preserved; float16 becomes float32. NumPy files cannot hold bfloat16, so any float is rounded to it if none
    overflows. A Python number has no type and takes the input's. A scalar input also accepts an array of shape [1],
    which is how stacked scalars are split.

    Raises:
        DataError: the dtype, rank, a fixed dimension or the number of channels is wrong.
    """
    array = native(np.asarray(value))
    place = f"{where}, input '{spec.name}'"
    if array.dtype.kind in "OUS" and spec.dtype.kind not in "OUS":
        held = type(array.item()).__name__ if array.ndim == 0 else f"array of {array.dtype.name}"
        raise DataError(f"the value is of type {held}", where=place, remedy=f"give an array of {spec.dtype.name}")
    if spec.dims == () and array.shape == (1,):
        array = array.reshape(())
    if spec.dims is not None:
        declared = [d if d is not None else "?" for d in spec.dims]
        if array.ndim != len(spec.dims):
            raise DataError(
                f"shape {list(array.shape)} has rank {array.ndim}, the model declares {declared}",
                where=place,
                remedy="a sample has the input's full rank, its batch dimension included"
                + _add_axis(array.shape, spec),
            )
        for axis, (size, wanted) in enumerate(zip(array.shape, spec.dims)):
            if isinstance(wanted, int) and size != wanted:
                remedy = f"give samples with {wanted} there, or export the model with that dimension dynamic"
                if axis == 0 and size < wanted:
                    remedy += _whole_batches(wanted)
                raise DataError(
                    f"shape {list(array.shape)} has {size} in dimension {axis}, the model declares {declared}",
                    where=place,
                    remedy=_channels_moved(array.shape, spec.dims) or _stacked(array.shape, axis, wanted) or remedy,
                )
        _check_channels(array.shape, spec, place)
    return _fit_dtype(array, spec, place)


def _whole_batches(size: int) -> str:
    """The remedy if a loader's batches were split into rows, or its last batch is not full."""
    return (
        f"; of a DataLoader, whose batches are taken apart, yield each batch from a function: def batches(): yield "
        f"from DataLoader(..., batch_size={size}, drop_last=True)"
    )


def _add_axis(shape: Sequence[int], spec: InputSpec) -> str:
    """How to add the batch dimension to a sample that lacks only this, such as an item of a data set; else empty."""
    axis, dims = spec.batch_axis, spec.dims or ()
    if axis is None or len(shape) != len(dims) - 1:
        return ""
    others = (*dims[:axis], *dims[axis + 1 :])
    if spec.one_channel and axis == 0 and shape[0] > 1:
        return f": {_stacked((1, *shape), 1, 1)}"
    if any(isinstance(wanted, int) and size != wanted for size, wanted in zip(shape, others)):
        return ""
    return f": numpy.expand_dims(value, {axis}) adds it to each"


def _check_channels(shape: Sequence[int], spec: InputSpec, place: str) -> None:
    """Check the number of channels against the model's convolutions if the model does not declare it.

    Raises:
        DataError: the number differs.
    """
    if spec.channels is None or spec.dims is None:
        return
    axis, wanted = spec.channels
    if axis >= len(shape) or isinstance(spec.dims[axis], int) or shape[axis] == wanted:
        return
    dims = [wanted if number == axis else dim for number, dim in enumerate(spec.dims)]
    raise DataError(
        f"shape {list(shape)} has {shape[axis]} in dimension {axis}, and the model's convolutions take {wanted}",
        where=place,
        remedy=_channels_moved(shape, dims) or _stacked(shape, axis, wanted) or f"give samples with {wanted} there",
    )


def _stacked(shape: Sequence[int], axis: int, wanted: int) -> str:
    """The remedy if samples of one channel may be stacked along the channel axis; else empty."""
    if axis != 1 or wanted != 1 or len(shape) < 3 or shape[0] != 1:
        return ""
    return (
        f"if these are {shape[axis]} samples of one channel, give each as numpy.expand_dims(item, (0, 1)), or all as "
        "array[:, None]"
    )


def _channels_moved(shape: Sequence[int], dims: Sequence[Any]) -> str:
    """The remedy if a sample fits after moving its channels to the other end; else empty."""
    rank = len(shape)
    if rank < 3:
        return ""
    ends = {"first": (0, *range(2, rank), 1), "last": (0, rank - 1, *range(1, rank - 1))}
    for end, order in ends.items():
        if all(not isinstance(wanted, int) or shape[axis] == wanted for axis, wanted in zip(order, dims)):
            other = "last" if end == "first" else "first"
            # at rank 3, it is unknown which of the two swapped axes is the channels
            how = "dimensions 1 and 2 swapped" if rank == 3 else f"their channels {end} and the model {other}"
            return f"the samples have {how}: transpose them, as array.transpose({', '.join(map(str, order))}) does"
    return ""


def _fit_dtype(array: Array, spec: InputSpec, place: str) -> Array:
    have, want = array.dtype, spec.dtype
    if have == want:
        return array
    remedy = f"save it as {'float32' if want.name == 'bfloat16' else want.name}"
    if have.name == "uint8" and want.kind not in "iub":
        remedy += ", scaled as in training, such as by 1 / 255"
    pair = (have.name, want.name)
    if pair == ("float64", "float32"):
        with np.errstate(over="ignore", under="ignore"):
            cast = array.astype(want)
        lost = (np.isinf(cast) & np.isfinite(array)) | ((cast == 0) & (array != 0))
    elif want.name == "bfloat16" and have.kind == "f":
        cast = array.astype(want)
        lost = ~np.isfinite(cast.astype(np.float32)) & np.isfinite(array)
    elif pair in (("int64", "int32"), ("int32", "int64"), ("float16", "float32")):
        cast = array.astype(want)
        lost = (cast != array) & (array == array)
    else:
        raise DataError(f"dtype is {have.name}, the model expects {want.name}", where=place, remedy=remedy)
    if lost.any():
        raise DataError(
            f"dtype is {have.name}, the model expects {want.name}, which cannot hold {array[lost].reshape(-1)[0]}",
            where=place,
            remedy=f"give values that {want.name} can hold",
        )
    return np.asarray(cast)


def check_shared_dims(sample: Sample, specs: Mapping[str, InputSpec]) -> None:
    """Check that dimensions with the same name in the model have the same size.

    Raises:
        DataError: they differ.
    """
    seen: dict[str, tuple[int, str]] = {}
    for name, spec in specs.items():
        for size, dim in zip(sample.inputs[name].shape, spec.dims or ()):
            if not isinstance(dim, str):
                continue
            first, owner = seen.setdefault(dim, (size, name))
            if size != first:
                raise DataError(
                    f"dimension '{dim}' is {first} in input '{owner}' and {size} in input '{name}'",
                    where=sample.origin,
                    remedy="the model declares them equal: give samples in which they are, or rename one of the "
                    "dimensions in the model (onnx.tools.update_model_dims.update_inputs_outputs_dims does)",
                )
