"""`medseg baseline`: classical models on the split of the network, judged on the same cases by the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.core.baseline import BaselineReport, FeatureSet, MissingRegion
from medseg.core.document import suggest
from medseg.core.errors import InputError, MedsegError, ModelError, UsageError, case_context
from medseg.core.findings import CaseFailure
from medseg.core.forecast import Forecast
from medseg.core.progress import Progress, silent
from medseg.data.store import open_store
from medseg.io.bundle import read_bundle
from medseg.io.contained import contained
from medseg.io.files import require_writable, write_text
from medseg.io.volumes import read_volumes
from medseg.workflows.baseline_cases import Measured, Measuring, is_two_valued
from medseg.workflows.baseline_head import judge_head
from medseg.workflows.baseline_sides import Sides, choose_sides, inner_folds, wanted_heads
from medseg.workflows.cohort_report import BASELINE
from medseg.workflows.provenance import make_provenance
from medseg.workflows.report import remake_pages

if TYPE_CHECKING:
    from medseg.core.baseline import BaselineSettings
    from medseg.core.case import Case, Dataset
    from medseg.io.bundle import Bundle
    from medseg.workflows.workspace import Workspace


@dataclass(frozen=True)
class Request:
    """What the baselines are held against.

    Attributes:
        manifest: The dataset; None means that of the workspace's store.
        bundle: The network; None means the workspace's newest, or none where there is none.
        network: Whether a network takes part at all.
    """

    manifest: Path | None = None
    bundle: Path | None = None
    network: bool = True


@dataclass(frozen=True)
class Judged:
    """What was found, and where it lies.

    Attributes:
        page: The cohort's page that shows it; None where the folder holds no evaluation.
        unfinished: The model that could have taken part, had its training ended.
    """

    file: Path
    page: Path | None
    report: BaselineReport
    num_measured: int
    unfinished: Path | None = None


def baseline(
    workspace: Workspace, settings: BaselineSettings, request: Request, out: Path, *, progress: Progress = silent
) -> Judged:
    """Fit the baselines on the training cases and judge them, and the network, on the others.

    Args:
        workspace: With a store or runs, unless the request names a manifest and no network.
        settings: Heads, labels, models, split.
        request: Dataset and network.
        out: Takes `baseline.json`; the page of an evaluation in it is made again.
        progress: Wraps the loops over cases.

    Raises:
        UsageError: E-NO-HEAD, E-LABEL-NAME, E-BASELINE-CLASS, E-SPLIT, E-OPTION.
        ModelError: E-BASELINE-MODEL, E-NO-STORE, or as `read_bundle`.
        InputError: E-ALL-FAILED when no case of a side could be measured.
    """
    dataset, model, sides = _opened(workspace, settings, request)
    heads = wanted_heads(dataset, settings)
    for head in heads:  # before any image is read
        inner_folds(_with_class(sides.teach, head), dataset, head, num_folds=settings.inner_folds)
    require_writable(out)
    with contained(settings):
        measuring = _measuring(dataset, settings, model, sides)
        taught, lost = _each(sides.teach, measuring.teaching, progress, "measuring training cases")
        judged, others = _each(sides.judge, measuring.judged, progress, "measuring judged cases")
    report = BaselineReport(
        name=dataset.name,
        model="" if model is None else model.manifest.name,
        judge=settings.judge,
        regions=measuring.labels,
        region_words=measuring.words,
        heads=tuple(
            judge_head(head, dataset, taught, judged, settings) for head in progress(heads, "fitting", len(heads))
        ),
        missing=_missing(measuring.labels, taught, judged),
        failures=(*lost, *others),
        provenance=make_provenance(dataset.name, settings),
    )
    write_text(out / BASELINE, report.to_json())
    page = out / "index.html" if (out / "cohort.json").is_file() else None
    if page is not None:
        remake_pages(out)
    unfinished = workspace.unfinished_bundle() if model is None and request.network else None
    return Judged(out / BASELINE, page, report, len(taught) + len(judged), unfinished)


def forecast_baseline(workspace: Workspace, settings: BaselineSettings, request: Request, out: Path) -> Forecast:
    """Which cases would teach and judge which models."""
    dataset, model, sides = _opened(workspace, settings, request)
    rows = []
    for head in wanted_heads(dataset, settings):
        teach = _with_class(sides.teach, head)
        folds = inner_folds(teach, dataset, head, num_folds=settings.inner_folds)
        counts = ", ".join(
            f"{sum(case.classes[head] == name for case in teach)} {name}" for name in dataset.heads[head]
        )
        rows.append((head, f"{counts}; settings chosen in {len(folds)} inner folds"))
    return Forecast(
        rows=(
            ("training cases", str(len(sides.teach))),
            (f"judged cases ({settings.judge})", str(len(sides.judge))),
            *rows,
            ("models", ", ".join(settings.models)),
            ("network", "none" if model is None else f"{model.manifest.name}, asked about every judged case"),
            ("out", str(out / BASELINE)),
        )
    )


def _opened(workspace: Workspace, settings: BaselineSettings, request: Request) -> tuple[Dataset, Bundle | None, Sides]:
    """The dataset, the network and the split; no image is opened."""
    manifest = request.manifest
    dataset = open_store(workspace.store).dataset if manifest is None else workspace.dataset(manifest)
    for label in settings.labels or ():
        if label not in dataset.labels:
            raise UsageError(
                f"unknown label {label!r}",
                code="E-LABEL-NAME",
                remedy=f"In the dataset: {suggest(label, list(dataset.labels))}",
            )
    model = _model(workspace, request)
    if settings.masks == "predicted" and (model is None or not model.plan.num_outputs):
        message = "--masks predicted needs a model that makes masks"
        raise UsageError(message, code="E-OPTION", remedy="Name one with --bundle, or leave --masks out.")
    _kinds(settings, model)
    return dataset, model, choose_sides(dataset, settings, model)


def _model(workspace: Workspace, request: Request) -> Bundle | None:
    if not request.network:
        return None
    if request.bundle is not None:
        return read_bundle(request.bundle)
    try:
        return read_bundle(workspace.newest_bundle())
    except ModelError as error:
        if error.code != "E-NO-MODEL":
            raise
        return None  # the report and the terminal say that no network took part


def _measuring(dataset: Dataset, settings: BaselineSettings, model: Bundle | None, sides: Sides) -> Measuring:
    from medseg.core.settings import InferSettings
    from medseg.engine.predict import Predictor

    labels = dataset.label_names if settings.labels is None else settings.labels
    one = sides.teach[0]
    outlines = not labels and is_two_valued(
        read_volumes(one.images, dataset.reading_of(one), channels=len(dataset.channels), missing=one.missing)
    )
    kinds = _kinds(settings, model)
    if model is None:
        return Measuring(dataset, labels, outlines, kinds)
    wishes = InferSettings(device=settings.device, amp=settings.amp, backend="torch")
    predictor = Predictor(model, wishes, describe="encoder" in kinds)
    predicted = settings.masks != "reference" and model.plan.num_outputs > 0
    return Measuring(dataset, labels, outlines, kinds, predictor, predicted)


def _kinds(settings: BaselineSettings, model: Bundle | None) -> tuple[FeatureSet, ...]:
    """The features asked for, or all there are.

    Raises:
        UsageError: E-OPTION for features of an encoder that is not there.
    """
    has_encoder = model is not None and model.plan.classification is not None
    if settings.features is None:
        return ("radiomics", "encoder") if has_encoder else ("radiomics",)
    if "encoder" in settings.features and not has_encoder:
        message = "features of the encoder need a network with a classification head"
        raise UsageError(message, code="E-OPTION", remedy="Name one with --bundle, or ask for --features radiomics.")
    return settings.features


def _each(
    cases: Sequence[Case], work: Callable[[Case], Measured], progress: Progress, description: str
) -> tuple[list[Measured], list[CaseFailure]]:
    """Measure every case; one that fails is named and left out.

    Raises:
        InputError: E-ALL-FAILED when none is left.
    """
    done, failures = [], []
    for case in progress(cases, description, len(cases)):
        try:
            with case_context(case.id):
                done.append(work(case))
        except MedsegError as error:
            failures.append(CaseFailure.of(case.id, error))
    if not done:
        raise InputError(
            f"{description}: none of {len(cases)} could be measured; the first: {failures[0].message}",
            code="E-ALL-FAILED",
            remedy="Run `medseg check` for the whole list.",
        )
    return done, failures


def _with_class(cases: Sequence[Case], head: str) -> tuple[Case, ...]:
    return tuple(case for case in cases if head in case.classes)


def _missing(
    labels: tuple[str, ...], taught: Sequence[Measured], judged: Sequence[Measured]
) -> tuple[MissingRegion, ...]:
    found = (
        MissingRegion(
            label=label,
            training=tuple(one.case.id for one in taught if label in one.missing),
            judged=tuple(one.case.id for one in judged if label in one.missing),
        )
        for label in labels
    )
    return tuple(one for one in found if one.training or one.judged)
