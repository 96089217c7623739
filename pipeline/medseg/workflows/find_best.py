"""`medseg find-best`: the configuration and the cleaning of masks that out-of-fold scores speak for, as one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from medseg.core.answering import Answering, Cleanup
from medseg.core.choice import BestReport, Candidate, Choice
from medseg.core.crossvalidation import CrossValidation
from medseg.core.errors import InputError, UsageError
from medseg.core.forecast import Forecast
from medseg.core.progress import Progress, silent
from medseg.data.manifest import read_manifest, write_manifest
from medseg.data.splits import Split
from medseg.io.bundle import MANIFEST, BundleManifest, read_bundle
from medseg.io.documents import read_document
from medseg.io.files import require_writable, write_text
from medseg.ops.choosing import Scores, choose, judge_choosing
from medseg.workflows.cross_validate import (
    HELD_BACK,
    OUT_OF_FOLD,
    RECORD,
    conclude,
    ensemble_of_folds,
    predict_fold,
    temperatures_of,
)
from medseg.workflows.ensemble import answer_alike, ensemble
from medseg.workflows.provenance import make_provenance
from medseg.workflows.score_cleanups import Cleanings, score_cleanings

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.core.case import Dataset
    from medseg.core.settings import Settings
    from medseg.workflows.workspace import Workspace

BEST = "find-best.json"
METRICS = {"dice": 1, "iou": 1, "nsd": 1, "hd_mm": -1, "hd95_mm": -1, "assd_mm": -1}
_BY_CLASS = "1 - half the squared error of the class probabilities"
_RULE = (
    "What stands gives way only to what is better beyond chance: the 95 % interval of the paired gain over patients "
    "lies above zero. First the configurations in the order given, then pairs of them, masks as they are; then, label "
    "by label, how the masks of what was chosen are cleaned."
)


@dataclass(frozen=True)
class Search:
    """What is chosen among and by.

    Attributes:
        metric: A key of `METRICS`.
        min_volumes_ml: Parts under these are tried to be taken away.
        pairs: Whether configurations are tried in pairs, too.
    """

    metric: str = "dice"
    min_volumes_ml: tuple[float, ...] = (0.02, 0.1, 0.5)
    pairs: bool = True

    @property
    def rules(self) -> tuple[Cleanup, ...]:
        """From simple to complex."""
        small = [Cleanup(min_volume_ml=volume) for volume in sorted(self.min_volumes_ml)]
        return (Cleanup(), *small, Cleanup(keep_largest=True))


@dataclass(frozen=True)
class FoundBest:
    """The model's folder and what was found."""

    bundle: Path
    report: BestReport


def find_best(
    workspace: Workspace,
    runs: Sequence[Path],
    out: Path,
    settings: Settings,
    *,
    search: Search = Search(),
    progress: Progress = silent,
) -> FoundBest:
    """Choose, judge the choosing, and write the model.

    Args:
        workspace: For `evaluate`.
        runs: Folders of finished cross-validations over the same folds, from simple to complex.
        out: `bundle/`, `find-best.json`, and a folder for each pair.
        settings: Of the prediction of pairs, and of scoring.
        search: What is chosen among and by.
        progress: Wraps the loops over cases.

    Raises:
        InputError: `E-FIND-BEST`, no finished cross-validation, or nothing to score.
        UsageError: `E-FIND-BEST`, other folds, one run twice, an unknown metric, or nothing but numbers.
    """
    if search.metric not in METRICS:
        raise _refusal(f"cannot choose by {search.metric!r}", f"Choose one of {', '.join(METRICS)}.")
    records = _records(runs)
    dataset = read_manifest(runs[0] / HELD_BACK)
    if not (dataset.labels or dataset.heads):
        found = f"cannot choose by numbers alone ({', '.join(dataset.targets)})"
        raise _refusal(found, "Compare the cross-validations' own reports: mean absolute error and R2.")
    require_writable(out)
    pairs, not_paired = _pairs(records, search)
    for name, (first, second) in pairs.items():
        pair = {run: records[run] for run in (first, second)}
        records[out / name] = _answer_together(workspace, pair, out / name, dataset, settings, progress=progress)
    scores, left_out = _scores(workspace, list(records), dataset, settings, search, progress=progress)
    report = _report(scores, records, search.metric if dataset.labels else _BY_CLASS)
    report = report.model_copy(
        update={
            "dataset": dataset.name,
            "left_out": left_out,
            "not_paired": not_paired,
            "provenance": make_provenance(dataset.name, settings.evaluate),
        }
    )
    choice = report.choice
    folder = next(folder for folder in records if folder.name == choice.candidate)
    record = records[folder]
    answering = Answering(combine="probabilities", temperatures=temperatures_of(record), cleanup=choice.cleanup)
    ensemble_of_folds(folder, record, answering, out=out / "bundle")
    write_text(out / BEST, report.to_json())
    return FoundBest(out / "bundle", report)


def forecast_find_best(runs: Sequence[Path], out: Path, search: Search) -> Forecast:
    """The candidates, what is tried on their masks, and what must be predicted anew; refuses what `find_best` would."""
    records = _records(runs)
    num_cases = sum(len(fold.held_back) for fold in records[runs[0]].folds)
    pairs, not_paired = _pairs(records, search)
    rows = [("configurations", ", ".join(run.name for run in records)), ("cases", str(num_cases))]
    rows += [("predicted anew", f"{name}: {num_cases} cases by two networks each") for name in pairs]
    rows += [("not paired", name) for name in not_paired]
    rows += [("tried on every label", str(rule)) for rule in search.rules[1:]]
    return Forecast(rows=(*rows, ("model", str(out / "bundle"))))


def _pairs(
    records: dict[Path, CrossValidation], search: Search
) -> tuple[dict[str, tuple[Path, Path]], tuple[str, ...]]:
    """By name the two that can answer together, and the names of the pairs that cannot."""
    if not search.pairs:
        return {}, ()
    models = {run: read_bundle(run / record.folds[0].bundle) for run, record in records.items()}
    pairs = {f"{first.name}+{second.name}": (first, second) for first, second in combinations(models, 2)}
    alike = {name: pair for name, pair in pairs.items() if answer_alike(models[pair[0]], models[pair[1]])}
    return alike, tuple(name for name in pairs if name not in alike)


def _records(runs: Sequence[Path]) -> dict[Path, CrossValidation]:
    """The cross-validations, which must have held back the same cases in the same folds."""
    records: dict[Path, CrossValidation] = {}
    for run in runs:
        if not (run / RECORD).is_file():
            raise InputError(
                f"no finished cross-validation here: it has no {RECORD}",
                code="E-FIND-BEST",
                file=run,
                remedy="Run `medseg train --folds N` to its end (a stopped one goes on); name its folder in runs/.",
            )
        if run.name in {other.name for other in records}:
            raise _refusal(f"two cross-validations are called {run.name!r}", "Rename the folder of one of them.", run)
        records[run] = read_document(run / RECORD, CrossValidation)
    folds = {run: tuple(set(fold.held_back) for fold in record.folds) for run, record in records.items()}
    for run in runs[1:]:
        if folds[run] != folds[runs[0]]:
            message = f"its folds hold back other cases than those of {runs[0].name}"
            raise _refusal(message, "Train all configurations on the same cases with the same --folds.", run)
    return records


def _answer_together(
    workspace: Workspace,
    pair: dict[Path, CrossValidation],
    folder: Path,
    dataset: Dataset,
    settings: Settings,
    *,
    progress: Progress,
) -> CrossValidation:
    """A cross-validation of two configurations as one: fold by fold, their members answer together."""
    folds = []
    for number, fold in enumerate(next(iter(pair.values())).folds):
        place = folder / f"fold{number}"
        ensemble(
            [run / record.folds[number].bundle for run, record in pair.items()], place / "bundle", name=folder.name
        )
        held_back = tuple(case for case in dataset.cases if case.id in fold.held_back)
        if held_back:
            write_manifest(dataset.model_copy(update={"cases": held_back}), place / HELD_BACK)
            how_many = len(next(iter(pair.values())).folds)
            predict_fold(place / "bundle", folder, settings.infer, fold=(number, how_many), progress=progress)
        taught = read_document(place / "bundle" / MANIFEST, BundleManifest).training_cases
        folds.append(Split(taught, fold.held_back))
    write_manifest(dataset, folder / HELD_BACK)
    return conclude(workspace, folder, dataset, folds, settings, progress=progress)


def _scores(
    workspace: Workspace,
    folders: Sequence[Path],
    dataset: Dataset,
    settings: Settings,
    search: Search,
    *,
    progress: Progress,
) -> tuple[Scores, tuple[str, ...]]:
    """Of the cases that every candidate could be scored on, and the names of the others."""
    bare = dataset.model_copy(update={"cases": ()})
    scoring = settings.evaluate.model_copy(update={"split": "all"})
    rules = search.rules if dataset.labels else (Cleanup(),)
    found = {}
    for folder in folders:
        cleanings = Cleanings(bare, folder / OUT_OF_FOLD, rules, search.metric, scoring)
        found[folder.name] = score_cleanings(workspace, cleanings, manifest=folder / HELD_BACK, progress=progress)
    cases = [case for case in dataset.cases if all(case.id in rows for rows in found.values())]
    if not cases:
        raise InputError(
            "no case has both a reference and a prediction of every candidate",
            code="E-FIND-BEST",
            file=folders[0] / OUT_OF_FOLD,
            remedy="Look at the failures of `medseg evaluate` on these predictions.",
        )
    kept = {case.id for case in cases}
    return Scores(
        {name: np.stack([rows[case.id] for case in cases]) for name, rows in found.items()},
        tuple(dataset.labels or dataset.heads),
        rules,
        tuple(case.group for case in cases),
        np.array([case.fold or 0 for case in cases]),
        (0.0, np.inf if search.metric.endswith("_mm") and dataset.labels else 1.0),
        METRICS[search.metric] if dataset.labels else 1,
    ), tuple(case.id for case in dataset.cases if case.id not in kept)


def _report(scores: Scores, records: dict[Path, CrossValidation], metric: str) -> BestReport:
    choice, steps = choose(scores)
    honest, choices = judge_choosing(scores)
    plain = {folder: scores.estimate_of(scores.by_case(Choice(candidate=folder.name))) for folder in records}
    return BestReport(
        dataset="",
        metric=metric,
        rule=_RULE,
        candidates=tuple(Candidate(name=folder.name, score=score) for folder, score in plain.items()),
        steps=steps,
        choice=choice,
        plain=next(iter(plain.values())),
        chosen=scores.estimate_of(scores.by_case(choice)),
        honest=scores.estimate_of(honest),
        choices_by_fold=choices,
        provenance=make_provenance(""),
    )


def _refusal(message: str, remedy: str, file: Path | None = None) -> UsageError:
    return UsageError(message, code="E-FIND-BEST", remedy=remedy, file=file)
