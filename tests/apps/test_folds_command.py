"""Cross-validation and find-best at the command line: what is asked, what is shown."""

from __future__ import annotations

import json
import sys

import pytest

from medseg.apps import cli, show_folds
from medseg.apps.terminal import Terminal
from medseg.core.answering import Cleanup
from medseg.core.choice import BestReport, Candidate, Choice, Step
from medseg.core.crossvalidation import Calibration, CrossValidation, FoldResult, ScoreTable
from medseg.core.findings import CaseFailure, Estimate, LabelMetrics
from medseg.io.lock import locked
from medseg.ops.scores import classification_summary
from medseg.ops.statistics import estimate, summarise_labels
from medseg.workflows import cross_validate
from medseg.workflows.cross_validate import CrossValidated
from medseg.workflows.find_best import FoundBest
from medseg.workflows.provenance import make_provenance


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


def test_the_folds_are_shown_before_any_training(run, workspace):
    code, out, _ = run("train", "--folds", 3, "--epochs", 2, "--workspace", workspace.folder, "--dry-run", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [name for name in rows if name.startswith("fold ")] == ["fold 0", "fold 1", "fold 2"]
    assert rows["fold 0"] == "4 cases teach, 2 judge"
    assert rows["length"].startswith("2 epochs each, 3 times")
    assert not (workspace.runs / "folds").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--folds", 50), "cannot be dealt into 50 folds"),
        (("--folds", 3, "--stratify-by", "site"), "no case of the manifest has an attribute 'site'"),
    ],
)
def test_folds_that_cannot_be_are_refused(run, workspace, arguments, words):
    code, _, err = run("train", *arguments, "--workspace", workspace.folder)
    assert code == 2
    assert "E-SPLIT" in err
    assert words in err


def test_folds_of_which_one_is_being_trained_are_refused_before_any_work(run, workspace, monkeypatch):
    folder = workspace.runs / "busy" / "fold1"
    folder.mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "medseg.workflows.cross_validate", None)  # what would take seconds to load
    with locked(folder / ".lock"):
        code, _, err = run("train", "--folds", 2, "--name", "busy", "--workspace", workspace.folder)
    assert code == 7
    assert "E-LOCKED" in err


@pytest.mark.parametrize(("text", "code"), [("0.1,x", "E-OPTION"), ("-1", "E-OPTION"), ("0.1,0.5", "E-FIND-BEST")])
def test_find_best_refuses_words_it_cannot_read(run, tmp_path, text, code):
    exit_code, _, err = run("find-best", tmp_path, f"--min-volumes={text}", "--dry-run")
    assert exit_code in {2, 3}
    assert code in err


def _numbers(*values) -> Estimate:
    return estimate(values, [f"p{n}" for n in range(len(values))])


def _record() -> CrossValidation:
    row = LabelMetrics(
        label="organ", presence="both", dice=0.9123, iou=0.8, precision=0.9, recall=0.9, hd_mm=9, hd95_mm=3.25,
        assd_mm=1, nsd=0.9, tolerance_mm=1, volume_ml=5, reference_volume_ml=5,
    )  # fmt: skip
    import numpy as np

    head = classification_summary(
        "kind", ("a", "b"), np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.1, 0.9]]), np.array([0, 1, 1, 0])
    )
    table = ScoreTable(
        num_cases=2,
        mean_dice=_numbers(0.9, 0.8),
        labels=summarise_labels([("p", row), ("q", row)]),
        classes=(head,),
    )
    folds = (
        FoldResult(fold=0, bundle="fold0/bundle", num_training_cases=2, held_back=("x", "y"), scores=table),
        FoldResult(fold=1, bundle="fold1/bundle", num_training_cases=2, held_back=("z",), scores=None),
    )
    calibration = Calibration(
        head="kind", n=4, temperature=1.7, fitted=1.7, nll=(0.9, 0.7), brier=(0.3, 0.2), ece=(0.2, 0.1),
        reliability=((), ()),
    )  # fmt: skip
    return CrossValidation(
        name="folds", dataset="d", stratify_by="class", folds=folds, pooled=table, calibration=(calibration,),
        not_judged=("w",), failures=(CaseFailure(case="z", code="E-READ", message="gone"),),
        provenance=make_provenance("d"),
    )  # fmt: skip


def test_the_table_has_every_fold_and_all_together(tmp_path, capsys):
    show_folds.cross_validated(Terminal(), CrossValidated(tmp_path, _record()), as_json=False)
    captured = capsys.readouterr()
    for words in (
        "fold 0", "fold 1", "all", "0.8500", "0.912", "3.25", "kind: temperature 1.70 kept", "NLL 0.900 -> 0.700",
        "not scored: w",
    ):  # fmt: skip
        assert words in captured.out
    assert "[E-READ] case z: gone" in captured.err
    show_folds.cross_validated(Terminal(), CrossValidated(tmp_path, _record()), as_json=True)
    assert CrossValidation.model_validate_json(capsys.readouterr().out).calibration[0].temperature == 1.7
    show_folds.cross_validated(Terminal(), CrossValidated(tmp_path, None), as_json=False)
    assert "goes on from here" in capsys.readouterr().out
    show_folds.cross_validated(Terminal(), CrossValidated(tmp_path, None, (1, 2)), as_json=False)
    assert "still to be trained: 1, 2 (--fold K" in capsys.readouterr().out


@pytest.mark.parametrize(("missing", "code"), [((), 130), ((1,), 0)])
def test_a_fold_that_was_stopped_is_told_from_one_that_is_done(run, tmp_path, monkeypatch, missing, code):
    made = CrossValidated(tmp_path, None, missing)
    monkeypatch.setattr(cross_validate, "cross_validate", lambda *_, **__: made)
    assert run("train", "--folds", 2, "--fold", 0, "--workspace", tmp_path, "--json")[0] == code


def test_the_choice_is_shown_with_its_reasons(tmp_path, capsys):
    plain, gain, small = _numbers(0.8, 0.82, 0.84), _numbers(0.01, 0.012, 0.011), _numbers(2e-5, 2e-5, 2e-5)
    report = BestReport(
        dataset="d", metric="dice", rule="", candidates=(Candidate(name="plain", score=plain),),
        steps=tuple(
            Step(kind="cleanup", subject="organ", change="largest part only", gain=one, taken=True)
            for one in (gain, small)
        ),
        choice=Choice(candidate="plain", cleanup={"organ": Cleanup(keep_largest=True)}), plain=plain, chosen=plain,
        honest=plain, left_out=("x",), choices_by_fold=(), provenance=make_provenance("d"),
    )  # fmt: skip
    show_folds.best(Terminal(), FoundBest(tmp_path / "bundle", report), as_json=False)
    out = capsys.readouterr().out
    for words in (
        "organ: largest part only",
        "0.0110",
        "0.00002 (0.00002 to 0.00002)",
        "yes",
        "had no part in it",
        "left out: x",
    ):
        assert words in out
    assert out.splitlines()[0] == "d, out of fold, masks as they are"
    show_folds.best(Terminal(), FoundBest(tmp_path / "bundle", report), as_json=True)
    assert BestReport.model_validate_json(capsys.readouterr().out) == report
