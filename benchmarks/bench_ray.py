"""Ray under fire: many small cases on two workers, one of which is killed every few seconds.

Prints and writes how many were done, how many were done more than once, and whether the masks equal the calm run's.
`begun_again` are attempts lost under way and begun once more: whoever is killed is at work, so there is one for each
kill. `committed_twice` is finished work done again.
Also the local engine on thirty of them, killed as a whole at random moments and started again until everything is done.

    python benchmarks/bench_ray.py --cases 200 --every 8
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from medseg.core.geometry import Geometry
from medseg.core.settings import PreprocessSettings, TrainSettings
from medseg.core.volume import Volume
from medseg.data.phantom import make_phantom
from medseg.io.volumes import write_volume
from medseg.workflows.preprocess import preprocess
from medseg.workflows.train import train
from medseg.workflows.workspace import Workspace

NUM_LOCAL = 30
RESULTS = Path(__file__).parent / "results" / "ray.json"


def make_inputs(folder: Path, num_cases: int) -> tuple[Path, Path]:
    """A model after two epochs, and small oblique volumes of noise and a bright ball."""
    manifest = make_phantom(folder / "cohort", seed=3, num_cases=8)
    place = Workspace(folder / "work")
    preprocess(
        place,
        PreprocessSettings(manifest=manifest, spacing_mm=(5.0, 5.0, 6.0), patch_size=(32, 32, 16), target="cpu"),
    )
    bundle = train(place, TrainSettings(epochs=2, warmup_steps=2)).bundle
    draw = np.random.default_rng(0)
    grid = Geometry.from_parts((32, 30, 20), (5.0, 5.5, 6.0), origin_mm=(10.0, -20.0, 30.0))
    centres = np.stack(np.meshgrid(*(np.arange(size) for size in grid.shape), indexing="ij"))
    for number in range(num_cases):
        array = draw.normal(-900, 40, grid.shape)
        centre = draw.uniform(8, 16, 3)
        array[((centres - centre[:, None, None, None]) ** 2).sum(0) < draw.uniform(16, 60)] += 950
        write_volume(Volume(array.astype(np.int16)[None], grid), folder / "images" / f"case{number:03d}.nii.gz")
    return bundle, folder / "images"


def command(bundle: Path, images: Path, out: Path, *words: str) -> list[str]:
    return [
        sys.executable, "-m", "medseg", "infer", "--bundle", str(bundle), "--input", str(images), "--out", str(out),
        "--json", *words,
    ]  # fmt: skip


def workers_of(parent: int) -> list[int]:
    """Ray's workers that run a case, among the processes that this one started."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            parents[pid] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            names[pid] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")

    def is_ours(pid: int) -> bool:
        while pid in parents and pid != parent:
            pid = parents[pid]
        return pid == parent

    return [pid for pid, name in names.items() if name.startswith("ray::_Worker.run") and is_ours(pid)]


def masks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.nii.gz"))}


def commits(folder: Path) -> dict[str, int]:
    """When each case was committed: a change means it was done again."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("case*.json")}


def run_killed_workers(bundle: Path, images: Path, out: Path, every_s: float) -> dict[str, object]:
    draw, kills, seen, redone = random.Random(0), 0, {}, 0  # noqa: S311 - no secret
    start = time.perf_counter()
    with (out.parent / "ray.err").open("w") as errors, (out.parent / "ray.out").open("w") as told:
        process = subprocess.Popen(
            command(bundle, images, out, "--engine", "ray", "--workers", "2", "-v"), stdout=told, stderr=errors
        )
        next_kill, known = None, 0
        while process.poll() is None:
            time.sleep(0.1)
            now = commits(out)
            redone += sum(seen[name] != when for name, when in now.items() if name in seen)
            seen = now
            if not now:
                continue
            next_kill = next_kill or time.monotonic() + every_s
            # One more is committed between two kills, or a starved machine's last case would lose every worker it gets.
            is_due = time.monotonic() > next_kill and len(now) > known
            victims = workers_of(process.pid) if is_due else []
            if victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(draw.choice(victims), signal.SIGKILL)
                    kills += 1
                next_kill, known = time.monotonic() + every_s, len(now)
    begun_again = (out.parent / "ray.err").read_text().count("its case is begun again")
    return {"exit_code": process.returncode, "kills": kills, "begun_again": begun_again, "committed_twice": redone,
            "seconds": round(time.perf_counter() - start, 1)}  # fmt: skip


def run_killed_runs(bundle: Path, images: Path, out: Path, between_s: tuple[float, float]) -> dict[str, object]:
    """kill -9 of the whole command at random moments after its first results, until it ends by itself."""
    draw, kills, redone = random.Random(1), 0, 0  # noqa: S311 - no secret
    while True:
        before = commits(out)
        process = subprocess.Popen(command(bundle, images, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and commits(out) == before:
            time.sleep(0.02)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(*between_s))
        is_over = process.poll() is not None
        if not is_over:
            process.kill()
            kills += 1
        process.wait()
        after = commits(out)
        redone += sum(after.get(name) != when for name, when in before.items())
        whole = all((out / f"{Path(name).stem}.nii.gz").stat().st_size > 0 for name in after)
        if not whole:
            raise SystemExit("a record without its mask")
        if is_over:
            return {"exit_code": process.returncode, "kills": kills, "redone_after_commit": redone}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--every", type=float, default=8.0, help="seconds between two kills of a worker")
    parser.add_argument("--write", action="store_true", help="keep the figures in results/ray.json")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle, images = make_inputs(folder, asked.cases)
        start = time.perf_counter()
        subprocess.run(command(bundle, images, folder / "calm"), check=True, stdout=subprocess.DEVNULL)
        calm_s, calm = round(time.perf_counter() - start, 1), masks(folder / "calm")
        ray = run_killed_workers(bundle, images, folder / "ray", asked.every)
        ray |= {
            "done": len(masks(folder / "ray")),
            "identical": masks(folder / "ray") == calm,
            "begun_again_share": round(int(str(ray["begun_again"])) / asked.cases, 4),
            "redone_share": round(int(str(ray["committed_twice"])) / asked.cases, 4),
            "leftovers": sorted(path.name for path in (folder / "ray").glob(".*")),
        }
        if ray["exit_code"]:
            print((folder / "ray.err").read_text()[-2000:], file=sys.stderr)
        (folder / "few").mkdir()
        few = sorted(images.iterdir())[:NUM_LOCAL]
        for path in few:
            (folder / "few" / path.name).symlink_to(path)
        local = run_killed_runs(bundle, folder / "few", folder / "local", (0.0, 1.0))
        expected = {path.name: calm[path.name] for path in few}
        local |= {
            "cases": len(few),
            "done": len(masks(folder / "local")),
            "identical": masks(folder / "local") == expected,
        }
    figures = {"cases": asked.cases, "calm_seconds": calm_s, "ray_workers_killed": ray, "local_runs_killed": local}
    print(json.dumps(figures, indent=2))
    if asked.write:
        RESULTS.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
