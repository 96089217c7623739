"""What `evaluate` compares: references from a manifest or a folder, and the masks of another folder beside them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.core.case import Case, Dataset
from medseg.core.document import suggest
from medseg.core.errors import InputError, UsageError
from medseg.core.progress import Progress, silent
from medseg.data.contents import values_in
from medseg.data.importers.json_lists import label_names
from medseg.io.volumes import read_labels
from medseg.workflows.label_map import Relabelling, parse_label_map
from medseg.workflows.mask_files import masks_in

if TYPE_CHECKING:
    from medseg.core.settings import EvaluateSettings
    from medseg.workflows.workspace import Workspace

DICOM_SUFFIXES = frozenset({".dcm", ".ima", ".dicom"})
_FEW_CASES = 20
_SMALL_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Inputs:
    """Everything to compare.

    Attributes:
        dataset: Labels, heads and the cases that have a reference.
        ids: Of all cases there are, in another split or without a reference too.
        masks: Predicted masks by case id; more than one is a fault of the case.
        relabelling: What the values of the predictions mean.
        lesions: Labels scored lesion by lesion.
    """

    dataset: Dataset
    ids: frozenset[str]
    masks: dict[str, tuple[Path, ...]]
    relabelling: Relabelling
    lesions: tuple[str, ...]

    def processes(self, jobs: int | None) -> int:
        """As asked; else one per core when the cases are many or large enough to repay the start of a process."""
        if jobs is None:
            files = [path for case in self.dataset.cases for path in (*case.images, case.label) if path is not None]
            large = sum(path.stat().st_size for path in files if path.is_file()) > _SMALL_BYTES
            jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            jobs = jobs if large or len(self.dataset.cases) >= _FEW_CASES else 1
        return min(jobs, len(self.dataset.cases))


def open_inputs(
    workspace: Workspace,
    predictions: Path,
    settings: EvaluateSettings,
    *,
    manifest: Path | None = None,
    references: Path | None = None,
    progress: Progress = silent,
) -> Inputs:
    """Find the cases, the masks and what their values mean; no mask is read unless the labels have no names.

    Raises:
        InputError: E-NOT-A-FOLDER, E-NOTHING-TO-EVALUATE when there is no case with a reference.
        UsageError: E-OPTION, E-LABEL-MAP, E-LABEL-NAME.
    """
    masks = masks_in(predictions)
    if references is None:
        if settings.labels:
            raise UsageError(
                "--labels names the values of a folder of references",
                code="E-OPTION",
                remedy="A manifest has its own: leave --labels out, or give --references FOLDER.",
            )
        dataset = workspace.dataset(manifest, progress=progress)
    elif manifest is not None:
        message = "--manifest and --references both say what the references are"
        raise UsageError(message, code="E-OPTION", remedy="Give one of them.")
    else:
        dataset = _folder_of_references(references, settings, progress=progress)
    relabelling = parse_label_map(settings.label_map, dataset.labels, ignore_value=dataset.ignore_value)
    lesions = dataset.lesion_labels if settings.lesions is None else settings.lesions
    for option, names in (("--lesions", lesions), ("--tolerance", settings.tolerances_mm)):
        _require_labels(option, names, dataset)
    wanted = tuple(
        case
        for case in dataset.cases
        if settings.split in {"all", case.split} and (case.label is not None or case.classes or case.values)
    )
    if not wanted:
        raise InputError(
            f"no case has a reference (split {settings.split})",
            code="E-NOTHING-TO-EVALUATE",
            file=references or manifest,
            remedy="Give masks or classes to the cases, or choose another --split.",
        )
    return Inputs(
        dataset.model_copy(update={"cases": wanted}),
        frozenset(case.id for case in dataset.cases),
        masks,
        relabelling,
        lesions,
    )


def _folder_of_references(folder: Path, settings: EvaluateSettings, *, progress: Progress) -> Dataset:
    """A dataset without images: the masks of a folder, whose values are named by the first of these that names any.

    `labels` of the settings; a `dataset.json` in the folder or the one above; the values found, those that the label
    map does not name as `label_7`.
    """
    masks = masks_in(folder)
    for name, paths in masks.items():
        if len(paths) > 1:
            raise InputError(
                f"two references for one case: {', '.join(path.name for path in paths)}",
                code="E-MASK-TWICE",
                file=folder,
                case=name,
                remedy="Keep one of them.",
            )
    labels, ignore_value = settings.labels, None
    declared = [path for path in (folder / "dataset.json", folder.resolve().parent / "dataset.json") if path.is_file()]
    if not labels and declared:
        labels, ignore_value = label_names(declared[0])
    if not labels:
        labels = dict(parse_label_map(settings.label_map, {}).labels)
        files = [path for (path,) in masks.values()]
        values = {
            value for path in progress(files, "reading labels", len(files)) for value in values_in(read_labels(path))
        }
        labels |= {f"label_{value}": value for value in sorted(values - {0, *labels.values()})}
    cases = tuple(Case(id=name, images=(), label=path) for name, (path,) in sorted(masks.items()))
    return Dataset(name=folder.resolve().name, labels=labels, ignore_value=ignore_value, cases=cases)


def _require_labels(option: str, names: tuple[str, ...] | dict[str, float], dataset: Dataset) -> None:
    for name in names:
        if name not in dataset.labels:
            raise UsageError(
                f"{option}: unknown label {name!r}",
                code="E-LABEL-NAME",
                remedy=f"In the references: {suggest(name, list(dataset.labels))}",
            )
