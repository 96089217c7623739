"""Reading a 512 x 512 x 300 int16 .nii.gz: medseg (every check, the gzip's checksum included) beside plain loads.

Each round reads the file once with each reader, in turn; a first round, not counted, compares what they read. "plain"
is what a user of the peer writes: nibabel `np.asanyarray(load(path).dataobj)`, SimpleITK
`GetArrayFromImage(ReadImage(path))`. "contained" is medseg's read in a child process with limits: the fork of the child
is counted, the start of the clean process that it comes from, once per command, is not. Writes
benchmarks/results/read.json.

    python benchmarks/bench_read.py [ROUNDS]
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
from bench_memory import SHAPE, make_case
from SimpleITK import GetArrayFromImage, ReadImage

from medseg.core.reading import Containment
from medseg.io.contained import contained
from medseg.io.volumes import read_volume

ROUNDS = 15


READERS: dict[str, Callable[[Path], np.ndarray]] = {
    "nibabel": lambda path: np.asanyarray(nib.load(path).dataobj),
    "SimpleITK": lambda path: GetArrayFromImage(ReadImage(str(path))),
    "medseg": lambda path: read_volume(path).array,
}


def timed(read: Callable[[Path], np.ndarray], path: Path) -> float:
    start = time.perf_counter()
    array = read(path)
    elapsed = time.perf_counter() - start
    assert array.size == np.prod(SHAPE)
    return elapsed


def main(rounds: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in (*READERS, "medseg contained")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.nii.gz"
        make_case(path)
        size = path.stat().st_size
        sums = {name: int(np.asarray(read(path), dtype=np.int64).sum()) for name, read in READERS.items()}
        assert len(set(sums.values())) == 1, sums
        for _ in range(rounds):
            for name, read in READERS.items():
                seconds[name].append(timed(read, path))
            with contained(Containment()):
                READERS["medseg"](path)  # the clean parent starts
                seconds["medseg contained"].append(timed(READERS["medseg"], path))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        "what": f"{'x'.join(map(str, SHAPE))} int16 .nii.gz, {size} bytes, read whole, {rounds} rounds in turn",
        "inflater": "isal" if find_spec("isal") else "zlib",
        "cpus": os.cpu_count(),
        "seconds": {
            name: {
                "median": round(medians[name], 3),
                "quartiles": [round(q, 3) for q in statistics.quantiles(values, n=4)[::2]],
                "min": round(min(values), 3),
            }
            for name, values in seconds.items()
        },
        "of_nibabel": {name: round(value / medians["nibabel"], 2) for name, value in medians.items()},
        "of_nibabel_best_of_each": {
            name: round(min(values) / min(seconds["nibabel"]), 2) for name, values in seconds.items()
        },
    }
    Path(__file__).with_name("results").joinpath("read.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
