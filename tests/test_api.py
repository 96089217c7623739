from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import medseg
from medseg.core.settings import EvaluateSettings, InferSettings, PreprocessSettings
from medseg.workflows.evaluate import evaluate
from medseg.workflows.infer import infer
from medseg.workflows.preprocess import preprocess
from medseg.workflows.workspace import Workspace


def test_every_public_name_exists_and_there_are_few():
    assert len(medseg.__all__) <= 18
    for name in medseg.__all__:
        assert getattr(medseg, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        medseg.nonsense  # noqa: B018


def test_importing_the_package_loads_nothing_heavy():
    program = "import sys, medseg; print(sorted({'torch', 'monai', 'numpy', 'scipy', 'nibabel'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_one_case_from_a_path_and_from_memory(workspace, cohort):
    image = min((cohort.parent / "images").glob("*.nii.gz"))
    from_path = medseg.infer(image, bundle=workspace.newest_bundle(), overlap=0.25)
    from_memory = medseg.infer(medseg.read_volume(image), bundle=str(workspace.newest_bundle()), overlap=0.25)
    assert from_path.labels is not None
    assert from_memory.labels is not None
    assert np.array_equal(from_path.labels.array, from_memory.labels.array)


def test_the_verbs_chain_from_python(cohort, tmp_path):
    work = tmp_path / "work"
    assert medseg.check(cohort).num_errors == 0
    medseg.preprocess(cohort, workspace=work, spacing_mm=(6, 6, 8), patch_size=(16, 16, 8))
    trained = medseg.train(workspace=work, epochs=1)
    answer = medseg.infer(min((cohort.parent / "images").glob("*.nii.gz")), bundle=trained.bundle)
    assert answer.labels is not None
    medseg.write_labels(answer.labels, work / "masks" / "phantom_0000.nii.gz")
    result = medseg.evaluate(work / "masks", out=work / "reports", manifest=cohort, pictures=False)
    assert [case.case for case in result.report.cases] == ["phantom_0000"]


def test_metrics_of_arrays():
    reference = np.zeros((8, 8, 8), dtype=np.uint8)
    reference[2:6, 2:6, 2:6] = 1
    (row,) = medseg.segmentation_metrics(reference, reference, spacing_mm=(1, 1, 2))
    assert row.dice == 1
    assert row.hd_mm == 0


def test_another_engine_is_started_or_refused_and_never_ignored(cohort, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    work, masks = tmp_path / "work", cohort.parent / "labels"
    asked = {
        "E-EXTRA": {
            "preprocess": lambda: medseg.preprocess(cohort, workspace=work, engine="ray"),
            "evaluate": lambda: medseg.evaluate(masks, out=tmp_path / "out", manifest=cohort, engine="ray"),
        },
        "E-ENGINE": {
            "one case": lambda: medseg.infer(cohort, bundle=tmp_path, engine="ray"),
            "infer": lambda: infer(tmp_path, tmp_path / "out", InferSettings(engine="ray"), folder=cohort),
            "preprocessing": lambda: preprocess(Workspace(work), PreprocessSettings(manifest=cohort, engine="ray")),
            "evaluating": lambda: evaluate(
                Workspace(work), masks, tmp_path / "out", EvaluateSettings(engine="ray"), manifest=cohort
            ),
        },
    }
    for code, calls in asked.items():
        for name, call in calls.items():
            with pytest.raises(medseg.MedsegError) as caught:
                call()
            assert caught.value.code == code, name
    assert not (tmp_path / "out").exists()
    assert not (work / "store").exists()
