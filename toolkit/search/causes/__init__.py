"""Why a layer is bad in eight bits: its ranges, weights, noise and near ties, and which helper passes mend it."""
