"""A compiled inner loop that extracts windows from a convolution's input, without the interpreter lock."""

from __future__ import annotations

from typing import Any

import numpy as np

from toolkit.calibration.kernels import compiled


@compiled
def take_windows(values: Any, samples: Any, places: Any, found: Any) -> None:
    """Copy the values of each channel in each window.

    Args:
        values: float32 [samples, channels, places].
        samples: the sample of each window, integers [windows].
        places: positions to read, integers [windows, kernel]; below 0 in the padding.
        found: receives the values, 0 in the padding; float32 [groups, windows, channels of a group, kernel].
    """
    groups, windows, channels, kernel = found.shape
    for group in range(groups):
        for channel in range(channels):
            for window in range(windows):
                own = values[samples[window], group * channels + channel]
                for at in range(kernel):
                    place = places[window, at]
                    found[group, window, channel, at] = own[place] if place >= 0 else np.float32(0)
