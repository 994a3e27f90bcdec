"""Calibration on a GPU. One command: ``pytest -m gpu tests/toolkit/calibration``."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import normal
from tests.control_flow import conv_in_loop
from toolkit import CalibrationData, Model
from toolkit.backends.choose import usable
from toolkit.calibration.collect import collect
from toolkit.calibration.gpu import collect_on_gpu
from toolkit.calibration.methods import make_ranges

pytestmark = pytest.mark.gpu


def test_a_loop_that_leaves_out_its_condition_is_calibrated_as_on_the_cpu():
    features, refusal = usable("tensorrt")
    if features is None:
        pytest.skip(str(refusal))
    model = Model.from_proto(conv_in_loop(condition=False))
    data = CalibrationData.open([{"x": normal(2, 4, 8, seed=seed)} for seed in range(4)], model)
    taps = ["x", "first"]
    here, there = collect(model, taps, data, batch=2), collect_on_gpu(model, taps, data, batch=2, tactic_sources=[])
    wanted, found = (make_ranges(made, method="minmax").tensors for made in (here, there))
    for tap in taps:
        assert np.isclose(found[tap].amax, wanted[tap].amax, rtol=1e-3)
    assert [loop.inputs[1].is_empty() for loop in model.nodes if loop.op == "Loop"] == [True]
