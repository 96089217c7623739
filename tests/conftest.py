"""The miniature cohort: eight phantom cases, preprocessed and trained on for a few steps, shared by the whole suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medseg.core.settings import InferSettings, PreprocessSettings, TrainSettings
from medseg.data.phantom import make_phantom
from medseg.workflows.infer import Inferred, infer
from medseg.workflows.preprocess import preprocess
from medseg.workflows.train import train
from medseg.workflows.workspace import Workspace

NUM_CASES = 8


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of the miniature cohort."""
    return make_phantom(tmp_path_factory.mktemp("cohort"), seed=3, num_cases=NUM_CASES)


@pytest.fixture(scope="session")
def workspace(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a store of coarse voxels and a model after a few steps: fast, and no good at its task."""
    place = Workspace(tmp_path_factory.mktemp("workspace"))
    preprocess(
        place, PreprocessSettings(manifest=cohort, spacing_mm=(5.0, 5.0, 6.0), patch_size=(32, 32, 16), target="cpu")
    )
    train(place, TrainSettings(epochs=2, warmup_steps=2))
    return place


@pytest.fixture(scope="session")
def inferred(workspace: Workspace, cohort: Path) -> Inferred:
    """Predictions of every case of the cohort."""
    return infer(workspace.newest_bundle(), workspace.predictions, InferSettings(), folder=cohort)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans; tests that need it are marked `real_data`."""
    folder = Path(os.environ.get("MEDSEG_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no folder of real scans: set MEDSEG_REAL_DATA")
    return folder
