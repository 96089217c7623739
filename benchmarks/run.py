"""The benchmarks that need no data: start-up, cohorts, metrics beside the peers, memory. `nox -s bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = (
    "bench_cli.py",
    "bench_cohort.py",
    "bench_damage.py",
    "bench_diameters.py",
    "bench_dicom_seg.py",
    "bench_followup.py",
    "bench_growth.py",
    "bench_memory.py",
    "bench_metrics.py",
    "bench_orientation.py",
    "bench_read.py",
    "bench_sliding.py",
)

if __name__ == "__main__":
    for script in SCRIPTS:
        print(f"== {script}", flush=True)
        subprocess.run([sys.executable, str(Path(__file__).with_name(script))], check=True)
