"""Why a layer loses accuracy when quantized: ranges, weights, noise, near ties; and helper passes against it."""
