"""A number that follows from size alone is answered better than by its mean: organs of noise, and their volume."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.core.case import Case, Dataset
from medseg.core.geometry import Geometry
from medseg.core.settings import InferSettings, PreprocessSettings, TrainSettings
from medseg.core.volume import LabelMap, Volume
from medseg.data.manifest import write_manifest
from medseg.io.volumes import write_labels, write_volume
from medseg.ops.values import r_squared
from medseg.workflows.infer import infer
from medseg.workflows.preprocess import preprocess
from medseg.workflows.train import train
from medseg.workflows.workspace import Workspace

NUM_TRAIN, NUM_CASES = 28, 40
SHAPE = (20, 20, 16)
AFFINE = np.array([[0, 2.0, 0, 9], [-2.0, 0, 0, 7], [0, 0, 2.5, -40], [0, 0, 0, 1]])


def _organs(folder, *, drawn: bool) -> dict[str, float]:
    """Ellipsoids of their own size, place and brightness, in noise; by case the volume in ml."""
    random = np.random.default_rng(8)
    voxels = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    geometry, cases = Geometry(SHAPE, AFFINE), []
    for number in range(NUM_CASES):
        radii = random.uniform(2.5, 5.5) * random.uniform(0.85, 1.15, 3)
        centre = np.array(SHAPE) / 2 - 0.5 + random.uniform(-2, 2, 3)
        organ = (((voxels - centre) / radii) ** 2).sum(-1) < 1
        image = random.normal(scale=0.3, size=SHAPE) + organ * random.uniform(1, 2)
        files = [folder / f"organ{number:02d}{end}.nii.gz" for end in ("", "_drawn")]
        write_volume(Volume(image[None].astype(np.float32), geometry), files[0])
        write_labels(LabelMap(organ.astype(np.uint8), geometry), files[1])
        cases.append(
            Case(
                id=f"organ{number:02d}",
                images=(files[0],),
                label=files[1] if drawn else None,
                values={"volume": float(organ.sum()) * geometry.voxel_volume_mm3 / 1000},
                split="train" if number < NUM_TRAIN else "val",
            )
        )
    labels = {"organ": 1} if drawn else {}
    dataset = Dataset(name="organs", channels=("MRI",), labels=labels, targets={"volume": "ml"}, cases=tuple(cases))
    write_manifest(dataset, folder / "manifest.json")
    return {case.id: case.values["volume"] for case in cases}


@pytest.mark.slow
@pytest.mark.parametrize("drawn", [True, False])
def test_the_volume_of_an_organ_is_answered_better_than_by_the_mean(tmp_path, drawn):
    """With a mask the organ's size is measured; without one, all cases having the same field of view, it is guessed."""
    truth = _organs(tmp_path, drawn=drawn)
    place = Workspace(tmp_path / "work")
    preprocess(
        place,
        PreprocessSettings(
            manifest=tmp_path / "manifest.json", target="cpu", patch_size=(16, 16, 16) if drawn else None
        ),
    )
    made = train(place, TrainSettings(epochs=15, warmup_steps=4))
    found = infer(made.bundle, tmp_path / "out", InferSettings(), folder=tmp_path / "manifest.json", split="val")
    answers = np.array([one.values[0].value for one in found.predictions])
    references = np.array([truth[one.case] for one in found.predictions])
    mean = np.mean(list(truth.values())[:NUM_TRAIN])
    error, of_the_mean = np.abs(answers - references).mean(), np.abs(mean - references).mean()
    assert len(answers) == NUM_CASES - NUM_TRAIN
    assert error < (0.3 if drawn else 0.7) * of_the_mean
    assert r_squared(answers, references) > (0.85 if drawn else 0.5)
