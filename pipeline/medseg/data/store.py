"""The store: every case of a dataset as the network sees it, one checked file per case.

A file holds `image` (C, I, J, K) float16, and for a labelled case `labels` (I, J, K) uint8 and `foreground` (N, 4)
int16: network index and voxel of up to `_POINTS` voxels of each label, so that patches find rare labels at once; with
clinical columns in the plan also `clinical` (width,) float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field

from medseg.core.document import Document
from medseg.core.errors import InputError, ModelError
from medseg.core.findings import CaseFailure
from medseg.core.geometry import Shape
from medseg.core.plan import IGNORE_INDEX, MISSING_CLASS, Fingerprint, Plan
from medseg.data.residency import filed_tensors
from medseg.io.documents import read_document
from medseg.io.files import sha256_of, write_text
from medseg.io.weights import load_tensors, save_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from medseg.core.case import Case, Dataset
    from medseg.data.residency import FiledTensor, Place
    from medseg.ops.prepare import Prepared

_POINTS = 5000
FINGERPRINT = "fingerprint.json"
_INDEX, _PLAN, _DATASET = "index.json", "plan.json", "dataset.json"


class StoredCase(Document):
    """Where one case lies in the store and what is known of it.

    Attributes:
        known: By network index (background first) whether the label was annotated.
        classes: Class index by head; MISSING_CLASS where the case has none.
        values: By target in its unit, where the case has one.
        missing: Channels that the case lacks: 0 in network units.
    """

    id: str
    patient: str
    file: str
    sha256: str
    shape: Shape
    known: tuple[bool, ...]
    classes: dict[str, int]
    values: dict[str, float] = Field(default_factory=dict)
    missing: tuple[int, ...] = ()

    @property
    def teaches_case(self) -> bool:
        """Whether a class or a value is known of the case as a whole."""
        return bool(self.values) or any(index != MISSING_CLASS for index in self.classes.values())


class StoreIndex(Document):
    schema_version: Literal[1] = 1
    preprocessing: str
    cases: tuple[StoredCase, ...]
    failures: tuple[CaseFailure, ...] = ()


@dataclass(frozen=True, eq=False)
class LoadedCase:
    """One case, in memory or in its file; `labels` and `foreground` are empty for a case without a reference.

    Attributes:
        clinical: (width,) the plan's clinical columns; empty when it has none.
    """

    entry: StoredCase
    image: Tensor | FiledTensor
    labels: Tensor | FiledTensor
    foreground: Tensor | FiledTensor
    clinical: Tensor = field(default_factory=lambda: torch.zeros(0))


@dataclass(frozen=True)
class Store:
    """An opened store."""

    folder: Path
    plan: Plan
    dataset: Dataset
    index: StoreIndex

    def fingerprint(self) -> Fingerprint | None:
        """What the training cases look like; None when an explicit plan was used."""
        path = self.folder / FINGERPRINT
        return read_document(path, Fingerprint) if path.is_file() else None

    def load(self, case_id: str, place: Place = "ram", device: torch.device | None = None) -> LoadedCase:
        """Verify one case and read it.

        Args:
            case_id: Which.
            place: Where its voxels are to be; `files` reads nothing yet.
            device: The GPU of that place.

        Raises:
            InputError: E-STORE-DAMAGED when the file is not what was written.
        """
        entry = next(case for case in self.index.cases if case.id == case_id)
        path = self.folder / entry.file
        if not path.is_file() or sha256_of(path) != entry.sha256:
            raise InputError(
                "this file of the store is missing or is not what was written",
                code="E-STORE-DAMAGED",
                file=path,
                case=case_id,
                remedy="Run `medseg preprocess` again.",
            )
        empty = torch.zeros((0, 0, 0), dtype=torch.uint8), torch.zeros((0, 4), dtype=torch.int16)
        if place == "files":
            filed = filed_tensors(path, case=case_id)
            clinical = filed["clinical"][:] if "clinical" in filed else torch.zeros(0)
            labels, points = filed.get("labels", empty[0]), filed.get("foreground", empty[1])
            return LoadedCase(entry, filed["image"], labels, points, clinical)
        # What the file's reader gives is read only when it is used, and may be forgotten again.
        tensors = {name: tensor.clone() for name, tensor in load_tensors(path).items()}
        image, labels = tensors["image"], tensors.get("labels", empty[0])
        if place == "gpu":
            image, labels = image.to(device), labels.to(device)
        clinical = tensors.get("clinical", torch.zeros(0))
        return LoadedCase(entry, image, labels, tensors.get("foreground", empty[1]), clinical)


def store_case(
    folder: Path, case: Case, prepared: Prepared, dataset: Dataset, *, clinical: Sequence[float] = ()
) -> StoredCase:
    """Write one prepared case; whole or not at all."""
    file = Path("cases") / f"{case.id}.safetensors"
    tensors = {"image": prepared.image.half()}
    if prepared.labels is not None:
        tensors |= {"labels": prepared.labels, "foreground": _foreground_points(prepared.labels)}
    if clinical:
        tensors["clinical"] = torch.tensor(clinical)
    save_tensors(folder / file, tensors)
    annotated = set(dataset.label_names if case.labelled is None else case.labelled)
    has_reference = prepared.labels is not None
    return StoredCase(
        id=case.id,
        patient=case.group,
        file=file.as_posix(),
        sha256=sha256_of(folder / file),
        shape=prepared.geometry.shape,
        known=(has_reference, *(has_reference and name in annotated for name in dataset.label_names)),
        classes={
            head: names.index(case.classes[head]) if head in case.classes else MISSING_CLASS
            for head, names in dataset.heads.items()
        },
        values=case.values,
        missing=case.missing,
    )


def close_store(
    folder: Path, plan: Plan, dataset: Dataset, *, cases: tuple[StoredCase, ...], failures: tuple[CaseFailure, ...]
) -> Store:
    """Write the index last: a store without one is unfinished."""
    index = StoreIndex(preprocessing=_preprocessing_key(plan), cases=cases, failures=failures)
    write_text(folder / _PLAN, plan.to_json())
    write_text(folder / _DATASET, dataset.to_json())
    write_text(folder / _INDEX, index.to_json())
    return Store(folder, plan, dataset, index)


def open_store(folder: Path) -> Store:
    """Open a finished store.

    Raises:
        ModelError: E-NO-STORE when there is none, E-STORE-STALE when its plan was edited where it matters.
    """
    from medseg.core.case import Dataset as DatasetModel

    if not (folder / _INDEX).is_file():
        raise ModelError(
            "no preprocessed data here",
            code="E-NO-STORE",
            file=folder,
            remedy="Run `medseg preprocess` with the same --workspace first.",
        )
    read = partial(read_document, remedy="Mend it, or run `medseg preprocess` again.")
    plan, index = read(folder / _PLAN, Plan), read(folder / _INDEX, StoreIndex)
    if index.preprocessing != _preprocessing_key(plan):
        raise ModelError(
            "the plan's preprocessing was changed after the data were preprocessed",
            code="E-STORE-STALE",
            file=folder / _PLAN,
            remedy=f"Run `medseg preprocess --plan {folder / _PLAN}` again.",
        )
    return Store(folder, plan, read(folder / _DATASET, DatasetModel), index)


def _preprocessing_key(plan: Plan) -> str:
    """The part of a plan that the stored arrays depend on."""
    arrays = plan.model_dump_json(include={"channels", "labels", "spacing_mm", "crop", "normalisation", "coarse_axis"})
    return arrays + "".join(column.model_dump_json() for column in plan.clinical)


def _foreground_points(labels: Tensor) -> Tensor:
    """(N, 4) int16: network index, i, j, k; an even draw of each label's voxels."""
    array = labels.numpy()
    rows = [np.zeros((0, 4), dtype=np.int16)]
    for index in np.unique(array):
        if index in {0, IGNORE_INDEX}:
            continue
        points = np.argwhere(array == index)
        even = np.linspace(0, len(points) - 1, min(len(points), _POINTS)).astype(int)
        chosen = points[even].astype(np.int16)
        rows.append(np.hstack([np.full((len(chosen), 1), index, dtype=np.int16), chosen]))
    return torch.from_numpy(np.concatenate(rows))
