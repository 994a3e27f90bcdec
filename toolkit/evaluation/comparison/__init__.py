"""Two models on the same samples: outputs, answers, noise, clipping, and limits on what may change."""
