"""Comparison of two models on the same samples: outputs, answers, noise, clipping, and limits on changed answers."""
