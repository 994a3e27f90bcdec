"""What a pass is and what it speaks through: Pass, Context, Sequence, the registry, Journal, PrecisionPlan."""
