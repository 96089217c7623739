"""Out-of-fold predictions scored as they are and cleaned in several ways, case by case."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from medseg.core.errors import MedsegError, case_context
from medseg.core.findings import CasePrediction
from medseg.core.progress import Progress, silent
from medseg.io.contained import contained
from medseg.io.documents import read_document
from medseg.io.volumes import read_labels
from medseg.ops.cleanup import cleaned
from medseg.workflows.evaluate_inputs import open_inputs
from medseg.workflows.infer_record import record_of
from medseg.workflows.parallel import each_in_processes
from medseg.workflows.score_masks import Rules, score_masks

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from medseg.core.answering import Cleanup
    from medseg.core.case import Case, Dataset
    from medseg.core.settings import EvaluateSettings
    from medseg.workflows.workspace import Workspace


@dataclass(frozen=True)
class Cleanings:
    """How every case is scored; small, for it travels to other processes.

    Attributes:
        dataset: Labels and heads; its cases are not needed.
        predictions: Folder with a record and a mask per case.
        rules: Ways to clean all labels, the first of which leaves them as they are.
        metric: Of `LabelMetrics`.
        settings: Tolerances, mode.
    """

    dataset: Dataset
    predictions: Path
    rules: tuple[Cleanup, ...]
    metric: str
    settings: EvaluateSettings


def score_cleanings(
    workspace: Workspace, cleanings: Cleanings, *, manifest: Path, progress: Progress = silent
) -> dict[str, NDArray[np.float64]]:
    """Case to (labels, rules), NaN where a label was not annotated; cases that cannot be scored are left out.

    Without labels, (heads, 1): one minus half the squared error of the class probabilities, 0 to 1.
    """
    settings = cleanings.settings
    inputs = open_inputs(workspace, cleanings.predictions, settings, manifest=manifest)
    cases = inputs.dataset.cases
    found = each_in_processes(
        partial(_attempt, cleanings=cleanings),
        cases,
        processes=inputs.processes(settings.jobs),
        on_death=lambda *_: None,
        around=partial(contained, settings),
    )
    rows = list(progress(found, f"scoring {cleanings.predictions.parent.name}", len(cases)))
    return {case.id: row for case, row in zip(cases, rows, strict=True) if row is not None and not np.isnan(row).all()}


def _attempt(case: Case, cleanings: Cleanings) -> NDArray[np.float64] | None:
    """The scores of a case; None where prediction or reference cannot be read: the caller says who is left out."""
    try:
        with case_context(case.id):
            found = read_document(record_of(case.id, cleanings.predictions), CasePrediction)
            return _by_mask(case, found, cleanings) if cleanings.dataset.labels else _by_class(case, found, cleanings)
    except MedsegError:
        return None


def _by_mask(case: Case, found: CasePrediction, cleanings: Cleanings) -> NDArray[np.float64]:
    labels = cleanings.dataset.labels
    scores = np.full((len(labels), len(cleanings.rules)), np.nan)
    if case.label is None or found.mask is None:
        return scores
    mask = read_labels(cleanings.predictions / found.mask, names=labels)
    judged = Rules(cleanings.dataset, (), cleanings.settings)
    seen: dict[bytes, int] = {}
    for column, rule in enumerate(cleanings.rules):
        volume_mm3 = mask.geometry.voxel_volume_mm3
        array = cleaned(mask.array, labels, dict.fromkeys(labels, rule), voxel_volume_mm3=volume_mm3)
        before = seen.setdefault(b"" if array is mask.array else np.packbits(array != mask.array).tobytes(), column)
        if before < column:
            scores[:, column] = scores[:, before]
            continue
        compared, _, _ = score_masks(replace(mask, array=array), case, None, judged)
        for one in compared.labels:
            row = list(labels).index(one.metrics.label)
            scores[row, column] = getattr(one.metrics, cleanings.metric)
    return scores


def _by_class(case: Case, found: CasePrediction, cleanings: Cleanings) -> NDArray[np.float64]:
    answers = {answer.head: answer.probabilities for answer in found.classes}
    scores = np.full((len(cleanings.dataset.heads), 1), np.nan)
    for row, head in enumerate(cleanings.dataset.heads):
        if head in case.classes and head in answers:
            errors = [(p - (name == case.classes[head])) ** 2 for name, p in answers[head].items()]
            scores[row, 0] = 1 - sum(errors) / 2
    return scores
