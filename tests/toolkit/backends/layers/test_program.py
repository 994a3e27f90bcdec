"""Reading an engine's compiled program: recorded lines, and bytes of any kind."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.backends.layers.program import Kernel, _entries, kernels, operands, tactics

# As TensorRT-RTX 1.7 wrote them, shortened; the second program stands for a second profile and reuses a name.
PROGRAM = (
    b'\x00\x01\xffplan  tensor={ alignment=128 const_payload_size=288 dims={ 8 4 3 3 } name="__mye258dconst" offset=3 '
    b"rank0=0 region=__mye287-consts stride_order={ 3 0 2 1 } strides={ 36 1 12 4 } type=int8 }\n"
    b'  tensor={ alignment=128 dims={ 1 4 8 8 } mem_prop=0 name="__mye254_2" offset=0 region="devmem" type=int8 }\n'
    b'  tensor={ alignment=16 dims={ 1 4 8 8 } mem_prop=0 name="x.1" offset=0 region="" type=half }\n'
    b'  corrltn={ name="conv" output={"y" } input={"__mye254_2" "__mye258dconst" "__mye263" } stream=0 '
    b'kernel=__myelin_CASK_STUB layers="[ONNX Layer: conv]\x1f[ONNX Layer: x/DQ]" }\n'
    b'  copy={ name="nothing of ONNX" output={"y" } input={"x.1" } stream=0 }\n'
    b'\x7f\x00  tensor={ dims={ 1 4 8 8 } name="__mye254_2" type=half }\n'
    b'  corrltn={ name="conv [profile 1]" output={"y" } input={"__mye254_2" "x.1" } layers="[ONNX Layer: conv]" }\n'
)


def test_kernels_of_two_profiles():
    assert list(kernels(PROGRAM)) == [
        Kernel("corrltn", ("conv", "x/DQ"), ("int8", "int8", "")),
        Kernel("corrltn", ("conv",), ("fp16", "fp16")),
    ]


def test_tactics_join_what_profiles_run():
    assert tactics(PROGRAM) == {"conv": "corrltn(int8, int8) | corrltn(fp16, fp16)", "x/DQ": "corrltn(int8, int8)"}
    assert operands(tactics(PROGRAM)["conv"]) == {"int8", "fp16"}
    assert operands("sm80_xmma_fprop_f16f16") == set() and operands("") == set()


WHOLE = re.compile(
    rb"tensor=\{ (?P<tensor>[^\n]{0,4000}?) type=(?P<type>\w{1,20}) \}"
    rb'|(?P<op>[a-z_]{2,40})=\{ name="[^"\n]{0,4000}" output=\{(?P<out>[^}\n]{0,4000})\} '
    rb"input=\{(?P<in>[^}\n]{0,8000})\}(?P<rest>[^\n]{0,40000})"
)
"""An entry with its kind, which takes seconds to find in an engine: every letter may begin one."""


@given(st.binary(max_size=300) | st.text("abtensorx_={ \n", max_size=40).map(str.encode), st.integers(0, len(PROGRAM)))
def test_entries_are_those_that_one_expression_finds(noise, at):
    engine = PROGRAM[:at] + noise + PROGRAM[at:] + PROGRAM
    found = [(op, one.groupdict()) for op, one in _entries(engine)]
    wanted = [one.groupdict() for one in WHOLE.finditer(engine)]
    assert [op for op, _ in found] == [one["op"] and one["op"].decode() for one in wanted]
    for (_, parts), whole in zip(found, wanted):
        assert parts == {name: whole[name] for name in parts}


@pytest.mark.parametrize("word", ["tensor", "xtensor", "to_tensor", "Xtensor", "a" * 36 + "tensor", "tensors", "t"])
def test_an_operation_may_be_called_like_a_tensor(word):
    """A word is read from its first letter on: what ends in tensor is no tensor if it can be an operation."""
    engine = f'{word}={{ name="k" output={{"y" }} input={{"x" }} type=half }}\n'.encode()
    wanted = next(WHOLE.finditer(engine), None)
    ((op, found),) = list(_entries(engine)) or [(None, None)]
    assert (found and found.groupdict()) == (wanted and {name: wanted[name] for name in found.groupdict()})
    assert (op is None) == (wanted is None or wanted["op"] is None)


@given(st.binary(max_size=300), st.integers(0, len(PROGRAM)), st.integers(0, 200))
def test_any_bytes_are_read_without_an_error(noise, at, lost):
    for kernel in kernels(PROGRAM[:at] + noise + PROGRAM[at + lost :]):
        assert isinstance(kernel, Kernel)


def test_bytes_without_a_program_have_no_kernels():
    assert tactics(b"") == {} and tactics(bytes(1_000_000)) == {}
