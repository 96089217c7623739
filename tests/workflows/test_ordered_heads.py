"""A head of ordered classes on its whole way: import, preprocess, train, infer, evaluate, page."""

from __future__ import annotations

import pytest

from medseg.core.case import Dataset
from medseg.core.errors import UsageError
from medseg.core.findings import CohortReport
from medseg.core.settings import EvaluateSettings, InferSettings, PreprocessSettings, TrainSettings
from medseg.data.importers import import_dataset
from medseg.data.manifest import read_manifest, write_manifest
from medseg.io.bundle import read_bundle
from medseg.io.documents import read_document
from medseg.workflows.evaluate import evaluate
from medseg.workflows.infer import infer
from medseg.workflows.preprocess import preprocess
from medseg.workflows.train import train
from medseg.workflows.workspace import Workspace

STAGES = ("I", "II", "III")


@pytest.fixture
def manifest(cohort, tmp_path):
    """Six cases of three stages, and one of which none is known."""
    dataset = read_manifest(cohort)
    cases = tuple(
        case.model_copy(update={"classes": {"stage": STAGES[number % 3]} if number else {}, "split": None})
        for number, case in enumerate(dataset.cases[:7])
    )
    staged = {**dataset.model_dump(), "heads": {"stage": STAGES}, "ordered": ("stage",), "cases": cases}
    write_manifest(Dataset.parse(staged), tmp_path / "staged.json")
    return tmp_path / "staged.json"


def test_stages_are_learnt_answered_and_scored_as_steps(manifest, tmp_path):
    place = Workspace(tmp_path / "work")
    preprocess(
        place, PreprocessSettings(manifest=manifest, spacing_mm=(8.0, 8.0, 8.0), patch_size=(16, 16, 16), target="cpu")
    )
    made = train(place, TrainSettings(epochs=1, warmup_steps=1, num_folds=2))
    bundle = read_bundle(made.bundle)
    assert bundle.plan.classification is not None
    assert bundle.plan.classification.ordered == ("stage",)
    assert bundle.weights[0]["head.heads.stage.weight"].shape[0] == 1
    assert 0 <= made.validation["stage/mae_steps"] <= 2
    answered = infer(made.bundle, place.predictions, InferSettings(), folder=manifest)
    for prediction in answered.predictions:
        (answer,) = prediction.classes
        assert tuple(answer.probabilities) == STAGES
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
    settings = EvaluateSettings(pictures=False, jobs=1)
    scored = evaluate(place, place.predictions, tmp_path / "reports", settings, manifest=manifest)
    (summary,) = read_document(tmp_path / "reports" / "cohort.json", CohortReport).classes
    assert summary.ordinal is not None
    assert summary.n == 6
    assert list(summary.ordinal.cuts) == ["II", "III"]
    page = scored.page.read_text()
    assert "Weighted kappa" in page
    assert "Each step and those above it against those below." in page


def test_import_marks_a_column_as_ordered_and_refuses_one_that_is_no_head(cohort, tmp_path):
    rows = [f"{case.images[0]},{STAGES[number % 3]}" for number, case in enumerate(read_manifest(cohort).cases[:3])]
    (tmp_path / "cases.csv").write_text("\n".join(["image,class_stage", *rows]))
    dataset = import_dataset(tmp_path / "cases.csv", out=tmp_path / "m.json", ordered=("stage",))
    assert dataset.ordered == read_manifest(tmp_path / "m.json").ordered == ("stage",)
    assert dataset.heads == {"stage": STAGES}
    with pytest.raises(UsageError, match="ordered names grade, not among the heads: stage"):
        import_dataset(tmp_path / "cases.csv", out=tmp_path / "n.json", ordered=("grade",))
    assert not (tmp_path / "n.json").exists()
