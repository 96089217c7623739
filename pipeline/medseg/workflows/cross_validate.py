"""`medseg train --folds N`: every fold trained, every case judged by the fold that did not see it, one model of all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from medseg.core.answering import Answering
from medseg.core.errors import UsageError
from medseg.core.progress import Item, Progress, silent
from medseg.data.manifest import write_manifest
from medseg.data.splits import Split, remarks_on_folds, split_folds
from medseg.data.store import Store, open_store
from medseg.engine.distributed import require_alone
from medseg.engine.stop import Stopped, stop_file_heard
from medseg.io.bundle import MANIFEST, BundleManifest
from medseg.io.documents import read_document
from medseg.io.files import write_text
from medseg.workflows.claim import claimed, require_no_single_run
from medseg.workflows.ensemble import ensemble
from medseg.workflows.evaluate import evaluate
from medseg.workflows.fold_table import fold_table
from medseg.workflows.infer import Request, infer_batch
from medseg.workflows.provenance import make_provenance
from medseg.workflows.train import train
from medseg.workflows.workspace import FOLDS

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.core.case import Dataset
    from medseg.core.crossvalidation import CrossValidation
    from medseg.core.settings import InferSettings, Settings, TrainSettings
    from medseg.engine.clock import Status
    from medseg.workflows.workspace import Workspace

RECORD, OUT_OF_FOLD, HELD_BACK = "cross-validation.json", "oof", "held-back.json"


@dataclass(frozen=True)
class CrossValidated:
    """What came of it.

    Attributes:
        folder: `fold0` ... `foldN`, `oof/`, `reports/`, `bundle/` and the record.
        report: None while folds are missing.
        missing: Folds that nobody has trained to their end, where the one that was asked for is done.
    """

    folder: Path
    report: CrossValidation | None
    missing: tuple[int, ...] = ()


@dataclass(frozen=True)
class Watchers:
    """Who is told what: of cases, of steps, and in words."""

    progress: Progress = silent
    step: Callable[[Status], None] = lambda _: None
    say: Callable[[str], None] = lambda _: None


def cross_validate(
    workspace: Workspace,
    settings: Settings,
    *,
    name: str = FOLDS,
    restart: bool = False,
    watchers: Watchers = Watchers(),
) -> CrossValidated:
    """Train every fold, predict and score the cases that it held back, calibrate, and put the folds together.

    What is finished is kept: the same command goes on where it was stopped. With `settings.train.fold` only that fold
    is trained, for one of several machines; the last one makes the table.

    Args:
        workspace: With a store from `preprocess`.
        settings: Of training (its length is each fold's), prediction and scoring.
        name: Of the folder in `runs/`.
        restart: Throw earlier trainings of these folds away.
        watchers: Who is told.

    Raises:
        ModelError: E-NO-STORE without preprocessed data.
        UsageError: E-RANKS under torchrun; E-SPLIT, before anything is trained; E-RESUME when a finished fold has
            other cases; E-RUN-KIND when the name is of one training.
    """
    require_alone(
        "cross-validation",
        f"Train each fold with torchrun and `--fold K --set train.num_folds={settings.train.num_folds} "
        f"--name {name}/foldK`; then run --folds without it: it takes them over.",
    )
    watchers = replace(watchers, progress=_stoppable(watchers.progress, workspace.runs / name))
    try:
        return _cross_validate(workspace, settings, name=name, restart=restart, watchers=watchers)
    except Stopped:
        return CrossValidated(workspace.runs / name, None)


def _cross_validate(
    workspace: Workspace, settings: Settings, *, name: str, restart: bool, watchers: Watchers
) -> CrossValidated:
    store, chosen = open_store(workspace.store), settings.train
    folder = workspace.runs / name
    require_no_single_run(folder, RECORD)
    folds = _folds(store, chosen)
    remarks = remarks_on_folds(store.dataset, folds)
    for remark in remarks:
        watchers.say(remark)
    for fold in range(len(folds)) if chosen.fold is None else [chosen.fold]:
        split = folds[fold]
        watchers.say(f"fold {fold} of {len(folds)}: {len(split.train)} cases teach, {len(split.val)} judge")
        trained = train(
            workspace,
            chosen.model_copy(update={"fold": fold}),
            name=f"{name}/fold{fold}",
            restart=restart,
            progress=watchers.progress,
            watch=watchers.step,
        )
        if not trained.finished:
            return CrossValidated(folder, None)
        for warning in trained.warnings:
            watchers.say(warning)
        _require_split(trained.bundle, split)
        _write_held_back(store.dataset, {fold: split}, folder / f"fold{fold}" / HELD_BACK)
        if split.val:
            predict_fold(trained.bundle, folder, settings.infer, fold=(fold, len(folds)), progress=watchers.progress)
    if missing := [fold for fold in range(len(folds)) if not is_finished(folder / f"fold{fold}" / "bundle")]:
        return CrossValidated(folder, None, tuple(missing))
    dataset = _write_held_back(store.dataset, dict(enumerate(folds)), folder / HELD_BACK)
    record = conclude(workspace, folder, dataset, folds, settings, progress=watchers.progress)
    notes = {"not_judged": _not_judged(store.dataset, folds), "warnings": remarks}
    record = record.model_copy(update=notes)
    write_text(folder / RECORD, record.to_json())
    return CrossValidated(folder, record)


def _stoppable(progress: Progress, folder: Path) -> Progress:
    """Look for a stop file between cases: a training hears it by itself, the predictions that follow do not."""

    def told(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
        for item in progress(items, description, total):
            if stop_file_heard(folder):
                raise Stopped
            yield item

    return told


def conclude(
    workspace: Workspace,
    folder: Path,
    dataset: Dataset,
    folds: Sequence[Split],
    settings: Settings,
    *,
    progress: Progress = silent,
) -> CrossValidation:
    """Score all out-of-fold predictions together, fit the temperatures, write the record and the model of all folds.

    Args:
        workspace: For `evaluate`.
        folder: With `fold0/bundle` ..., `oof/` and the manifest of all cases that were held back.
        dataset: That manifest.
        folds: In order.
        settings: Of training, for the record, and of scoring.
        progress: Wraps the loop over cases.
    """
    report = evaluate(
        workspace,
        folder / OUT_OF_FOLD,
        folder / "reports",
        settings.evaluate.model_copy(update={"split": "all"}),
        manifest=folder / HELD_BACK,
        progress=progress,
    ).report
    record = fold_table(dataset, folds, report, settings.evaluate).model_copy(
        update={
            "name": folder.name,
            "stratify_by": settings.train.stratify_by,
            "provenance": make_provenance(dataset.name, settings.train),
        }
    )
    write_text(folder / RECORD, record.to_json())
    ensemble_of_folds(folder, record, Answering(combine="probabilities", temperatures=temperatures_of(record)))
    return record


def ensemble_of_folds(
    folder: Path, record: CrossValidation, answering: Answering, *, out: Path | None = None
) -> BundleManifest:
    """One model of all folds, in `bundle/` of the cross-validation or elsewhere."""
    return ensemble(
        [folder / fold.bundle for fold in record.folds],
        out or folder / "bundle",
        name=record.name,
        answering=answering,
        measured={"out_of_fold": json.loads(record.pooled.model_dump_json(exclude={"classes"}))},
    )


def temperatures_of(record: CrossValidation) -> dict[str, float]:
    """Those that were found to help."""
    return {one.head: one.temperature for one in record.calibration if one.temperature != 1.0}


def predict_fold(
    bundle: Path, folder: Path, settings: InferSettings, *, fold: tuple[int, int], progress: Progress = silent
) -> None:
    """Predict the cases that a fold held back as `medseg infer` would, into the folder that all folds share.

    Args:
        bundle: The model that did not see them.
        folder: Of the cross-validation.
        settings: Of prediction.
        fold: Its number, and how many there are.
        progress: Wraps the loop over cases.
    """
    out, (number, count) = folder / OUT_OF_FOLD, fold
    settings = settings.model_copy(update={"shard": None})
    with claimed(out, settings) as claim:
        part = replace(claim, summary=out / f"predictions-{number + 1}-of-{count}.json")
        request = Request(bundle, settings, folder=folder / f"fold{number}" / HELD_BACK)
        infer_batch(request, part, progress=progress)


def is_finished(bundle: Path) -> bool:
    """Whether a folder holds a model whose training came to its end."""
    file = bundle / MANIFEST
    return file.is_file() and read_document(file, BundleManifest).finished


def _folds(store: Store, settings: TrainSettings) -> tuple[Split, ...]:
    """The folds, without the cases that could not be preprocessed."""
    usable = {case.id for case in store.index.cases}
    folds = split_folds(store.dataset, num_folds=settings.num_folds, stratify_by=settings.stratify_by)
    if settings.fold is not None and settings.fold >= len(folds):
        message = f"fold {settings.fold} does not exist"
        raise UsageError(message, code="E-SPLIT", remedy=f"Choose a fold from 0 to {len(folds) - 1}.")
    return tuple(Split(*(tuple(c for c in part if c in usable) for part in (one.train, one.val))) for one in folds)


def _require_split(bundle: Path, split: Split) -> None:
    taught = read_document(bundle / MANIFEST, BundleManifest).training_cases
    if set(taught) != set(split.train):
        raise UsageError(
            "this fold was trained on other cases than it would be now",
            code="E-RESUME",
            file=bundle,
            remedy="Undo the change of the cases or of the folds, or start anew with --restart or another --name.",
        )


def _write_held_back(dataset: Dataset, folds: dict[int, Split], path: Path) -> Dataset:
    """A manifest of the cases that these folds hold back, each marked with its fold."""
    held_back = {case: fold for fold, split in folds.items() for case in split.val}
    cases = tuple(
        case.model_copy(update={"fold": held_back[case.id], "split": None})
        for case in dataset.cases
        if case.id in held_back
    )
    made = dataset.model_copy(update={"cases": cases, "generator": None})
    write_manifest(made, path)
    return made


def _not_judged(dataset: Dataset, folds: Sequence[Split]) -> tuple[str, ...]:
    judged = {case for split in folds for case in split.val}
    return tuple(case.id for case in dataset.cases if case.split != "test" and case.id not in judged)
