"""What the benchmarks of large cases share: the cases, nnU-Net's predictor, and work measured in its own process."""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.io.volumes import read_volume, write_volume
from medseg.ops.lines import LINEAR
from medseg.ops.resample import resample

SHAPE = (512, 512, 300)
RESULTS = Path(__file__).parent / "results"


def resampled_ct(data: Path, path: Path, shape: tuple[int, int, int] = SHAPE) -> None:
    """TotalSegmentator's 3 mm test CT (`DATA/totalsegmentator`) cut finer: the same patient, 512x512x300 int16."""
    image = nib.load(data / "totalsegmentator" / "example_ct.nii.gz")
    array = torch.from_numpy(np.asarray(image.dataobj, dtype=np.float32))
    fine = resample(array[None], shape)[0].round().clamp(-1024, 3071)
    noise = torch.empty(shape).normal_(0, 8, generator=torch.Generator().manual_seed(0))  # else it packs too well
    geometry = Geometry(array.shape, image.affine).resized(shape)
    write_volume(Volume((fine + noise).to(torch.int16).numpy()[None], geometry), path)


def resampled_labels(data: Path, path: Path, shape: tuple[int, int, int] = SHAPE) -> None:
    """Bone, muscle and liver as `train_nnunet_ct` teaches them, on the grid of `resampled_ct`."""
    from train_nnunet_ct import TAUGHT

    image = nib.load(data / "totalsegmentator" / "example_seg_fast_force_split.nii.gz")
    organs = np.asarray(image.dataobj)
    labels = np.zeros(shape, np.uint8)
    for value, members in TAUGHT.items():
        share = resample(torch.from_numpy(np.isin(organs, members))[None], shape, orders=(LINEAR,) * 3)[0]
        labels[(share > 0.5).numpy()] = value
    nib.save(nib.Nifti1Image(labels, Geometry(organs.shape, image.affine).resized(shape).affine), path)


def abdomen_ct(data: Path, path: Path) -> None:
    """A slab of the abdomen as it left the scanner, 512x512x20 DICOM: the network has seen it."""
    _as_nifti(data / "totalsegmentator" / "example_ct_dicom", path)


def lung_ct(data: Path, path: Path) -> None:
    """A chest as it left the scanner, 512x512x48, slices of 5 mm (`DATA/pyradiomics`): nothing like it was taught."""
    _as_nifti(data / "pyradiomics" / "lung1_image.nrrd", path)


def _as_nifti(source: Path, path: Path) -> None:
    volume = read_volume(source)
    write_volume(Volume(volume.array, volume.geometry), path)


def nnunet_predictor(results: Path):
    """nnU-Net's own, on the CPU, without mirroring, as it comes."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(variable, tempfile.gettempdir())  # it wants them set, and does not use them here
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    warnings.simplefilter("ignore")
    predictor = nnUNetPredictor(
        tile_step_size=0.5, use_mirroring=False, device=torch.device("cpu"), verbose=False, allow_tqdm=False
    )
    fold = ("all",) if (results / "fold_all").is_dir() else None
    predictor.initialize_from_trained_model_folder(str(results), fold, "checkpoint_final.pth")
    return predictor


@contextmanager
def coarser(results: Path, spacing_mm: float, window: int) -> Iterator[Path]:
    """The same model planned for larger voxels and smaller windows: fewer windows, for a quick look."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, results.name)
        copy.mkdir()
        for path in results.iterdir():
            if path.name != "plans.json":
                (copy / path.name).symlink_to(path.resolve())
        plans = json.loads((results / "plans.json").read_text())
        chosen = plans["configurations"]["3d_fullres"]
        chosen |= {"spacing": [spacing_mm] * 3, "patch_size": [window] * 3}
        (copy / "plans.json").write_text(json.dumps(plans))
        yield copy


def measured(work: Callable[[], dict]) -> dict:
    """What `work` returns, with its `seconds`, the `cpu_seconds` of all threads, `before_mib` and `peak_mib`."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    before = _memory("VmRSS")
    start, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found | {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "before_mib": before,
        "peak_mib": _memory("VmHWM"),
    }


def in_child(script: str, *arguments: object) -> dict:
    """Run `script --child ARGUMENTS` in a process of its own; its last line is JSON."""
    command = [sys.executable, script, "--child", *map(str, arguments)]
    # On a busy machine threads that spin while they wait would cost every tool more than its work.
    patient = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | patient)
    found = done.stdout.strip().splitlines()[-1]
    print(arguments[0], found, file=sys.stderr)
    return dict(json.loads(found))


def forked(work: Callable[..., dict], *arguments: object) -> dict:
    """What a function of the script returns in a process of its own, which begins with the libraries loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *arguments).result()


def both(runs: list[dict]) -> dict[str, dict[str, float]]:
    """Seconds on the clock, which others on the machine lengthen, and seconds of processor."""
    return {key: spread([run[key] for run in runs]) for key in ("seconds", "cpu_seconds")}


def ratio(slow: dict, fast: dict) -> dict[str, float]:
    """How many times faster, by the clock and by the processor."""
    return {key: round(slow[key]["median"] / fast[key]["median"], 2) for key in ("seconds", "cpu_seconds")}


def spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
        "n": len(values),
    }


def write_result(name: str, result: dict) -> None:
    """Print it, and keep it with the load of the machine."""
    result = {**result, "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 2)}
    text = json.dumps(result, indent=2) + "\n"
    print(text)
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")


def kept(name: str) -> dict:
    """What `write_result` wrote before; empty when there is nothing."""
    path = RESULTS / f"{name}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _memory(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise KeyError(key)
