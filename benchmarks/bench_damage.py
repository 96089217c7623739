"""How much random damage is noticed: single bits flipped, files cut, 4 KiB pages zeroed.

What is damaged: a .nii.gz, an NRRD with gzip, and a case of medseg's own store. Every damaged file is read (a stored
case is loaded) and is either refused, or read as exactly what it was ("identical": the damage fell on bytes that mean
nothing, such as a gzip's time stamp), or read as something else ("silent"). The text of an NRRD header has no checksum
in that format, so it is counted apart. Writes benchmarks/results/damage.json.

    python benchmarks/bench_damage.py [TRIALS PER FORMAT]
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from medseg.core.errors import MedsegError
from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.data.store import LoadedCase, Store, StoredCase, StoreIndex
from medseg.io.files import sha256_of
from medseg.io.volumes import read_volume, write_volume
from medseg.io.weights import save_tensors

TRIALS = 3400
SHAPE = (64, 64, 48)
PAGE = 4096
Read = Callable[[Path], tuple[bytes, ...]]


def make_volume() -> Volume:
    """Smooth noise, as a scan compresses."""
    rng = np.random.default_rng(0)
    array = (rng.normal(0, 20, SHAPE) + 200 * np.sin(np.arange(SHAPE[0]) / 9)[:, None, None]).astype(np.int16)
    array[:8] = -1000
    return Volume(array[None], Geometry.from_parts(SHAPE, (0.8, 0.8, 2.5), np.diag([-1.0, -1.0, 1.0]), (20, 30, -90)))


def read_image(path: Path) -> tuple[bytes, ...]:
    volume = read_volume(path)
    return volume.array.tobytes(), volume.geometry.affine.tobytes(), str(volume.array.dtype).encode()


def make_store(folder: Path) -> tuple[Path, Read]:
    path = folder / "case.safetensors"
    save_tensors(path, {"image": torch.from_numpy(make_volume().array).half()})
    entry = StoredCase.model_validate(
        {"id": "case", "patient": "p", "file": path.name, "sha256": sha256_of(path), "shape": SHAPE, "known": (True,),
         "classes": {}}
    )  # fmt: skip
    index = StoreIndex(preprocessing="", cases=(entry,))

    def read(_: Path) -> tuple[bytes, ...]:
        loaded: LoadedCase = Store(folder, None, None, index).load("case")  # type: ignore[arg-type]
        return (loaded.image.numpy().tobytes(),)

    return path, read


def damage(whole: bytes, kind: str, rng: np.random.Generator) -> tuple[bytes, int]:
    """A damaged copy, and where the damage begins."""
    position = int(rng.integers(len(whole)))
    if kind == "cut":
        return whole[:position], position
    data = bytearray(whole)
    if kind == "bit":
        data[position] ^= 1 << int(rng.integers(8))
        return bytes(data), position
    start = position // PAGE * PAGE
    data[start : start + PAGE] = bytes(len(data[start : start + PAGE]))
    return bytes(data), start


def outcomes(path: Path, read: Read, unprotected: int, trials: int) -> dict[str, dict[str, int]]:
    whole, truth = path.read_bytes(), read(path)
    rng = np.random.default_rng(1)
    counts: dict[str, Counter[str]] = {}
    for trial in range(trials):
        kind = ("bit", "cut", "page")[trial % 3]
        damaged, position = damage(whole, kind, rng)
        if damaged == whole:
            continue
        path.write_bytes(damaged)
        try:
            verdict = "identical" if read(path) == truth else "silent"
        except MedsegError:
            verdict = "refused"
        place = "text header" if position < unprotected and kind == "bit" else "under a checksum"
        counts.setdefault(place, Counter())[f"{kind} {verdict}"] += 1
    path.write_bytes(whole)
    return {place: dict(sorted(found.items())) for place, found in counts.items()}


def main(trials: int) -> None:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {}
        for suffix in (".nii.gz", ".nrrd"):
            path = folder / f"case{suffix}"
            write_volume(make_volume(), path)
            header = path.read_bytes().index(b"\n\n") + 2 if suffix == ".nrrd" else 0
            found[suffix] = outcomes(path, read_image, header, trials)
        found["store"] = outcomes(*make_store(folder), 0, trials)
    covered = [counts for places in found.values() for place, counts in places.items() if place == "under a checksum"]
    total = sum(sum(counts.values()) for counts in covered)
    silent = sum(n for counts in covered for verdict, n in counts.items() if verdict.endswith("silent"))
    result = {
        "what": f"{trials} damages of each of {', '.join(found)}: bits flipped, cuts, 4 KiB pages zeroed",
        "under_a_checksum": {"damaged": total, "silently_wrong": silent},
        "by_format": found,
        "seconds": round(time.perf_counter() - start),
    }
    Path(__file__).with_name("results").joinpath("damage.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    assert silent == 0


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else TRIALS)
