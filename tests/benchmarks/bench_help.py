"""Seconds until ``qtool --help`` has answered, the best of ten: python tests/benchmarks/bench_help.py; 1 where that is over 0.3."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

MOST = 0.3


def seconds() -> float:
    """One call, in a process of its own."""
    start = time.perf_counter()
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-m", "toolkit.cli.main", "--help"], cwd=root, capture_output=True, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    best = min(seconds() for _ in range(10))
    print(f"qtool --help: {best:.3f} s")
    sys.exit(best > MOST)
