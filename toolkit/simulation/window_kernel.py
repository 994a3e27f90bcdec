"""A compiled inner loop that takes windows out of a convolution's input, without the interpreter lock."""

from __future__ import annotations

from typing import Any

import numpy as np

from toolkit.calibration.kernels import compiled


@compiled
def take_windows(values: Any, samples: Any, places: Any, found: Any) -> None:
    """Copy what each window holds of each channel.

    Args:
        values: float32 [samples, channels, places].
        samples: the sample of each window, integers [windows].
        places: where it reads, integers [windows, kernel]; below 0 in the padding.
        found: takes the values, 0 in the padding, float32 [groups, windows, channels of a group, kernel].
    """
    groups, windows, channels, kernel = found.shape
    for group in range(groups):
        for channel in range(channels):
            for window in range(windows):
                own = values[samples[window], group * channels + channel]
                for at in range(kernel):
                    place = places[window, at]
                    found[group, window, channel, at] = own[place] if place >= 0 else np.float32(0)
