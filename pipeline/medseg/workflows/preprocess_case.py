"""One case of `medseg preprocess`: measured for the plan, then stored by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medseg.core.clinical import encode
from medseg.core.errors import MedsegError, case_context
from medseg.core.findings import CaseFailure
from medseg.data.contents import read_reference
from medseg.data.store import StoredCase, store_case
from medseg.io.volumes import read_volumes
from medseg.ops.blank import blank_values, may_skip
from medseg.ops.prepare import to_network
from medseg.planning.fingerprint import CaseMeasurement, measure_case

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.core.case import Case, Dataset
    from medseg.core.plan import Plan
    from medseg.core.settings import PreprocessSettings
    from medseg.core.volume import LabelMap, Volume


@dataclass(frozen=True)
class Measuring:
    """What is the same for all cases that are measured; small, for it travels to every process."""

    dataset: Dataset
    settings: PreprocessSettings

    def __call__(self, case: Case) -> CaseMeasurement | CaseFailure:
        try:
            with case_context(case.id):
                volume, labels = _read(case, self.dataset, self.settings)
                return measure_case(case, self.dataset, volume, labels=labels)
        except MedsegError as error:
            return CaseFailure.of(case.id, error)


@dataclass(frozen=True)
class Stored:
    """A case in the store.

    Attributes:
        may_skip: Whether windows of air alone could be skipped without losing a voxel of a label; None: not asked.
    """

    entry: StoredCase
    may_skip: bool | None


@dataclass(frozen=True)
class Storing:
    """What is the same for all cases that are stored; small, for it travels to every process."""

    store: Path
    plan: Plan
    dataset: Dataset
    settings: PreprocessSettings

    def __call__(self, case: Case) -> Stored | CaseFailure:
        try:
            with case_context(case.id):
                return self._stored(case)
        except MedsegError as error:
            return CaseFailure.of(case.id, error)

    def _stored(self, case: Case) -> Stored:
        volume, labels = _read(case, self.dataset, self.settings)
        prepared = to_network(volume, self.plan, labels=labels, ignore=self.dataset.ignore_value)
        air, safe = blank_values(self.plan.normalisation), None
        if air is not None and prepared.labels is not None and case.split != "test":
            safe = may_skip(prepared.image, prepared.labels, air)
        clinical = encode(self.plan.clinical, case.attributes)
        return Stored(store_case(self.store, case, prepared, self.dataset, clinical=clinical), safe)


def lost(case: Case, ending: str) -> CaseFailure:
    """The row of a case whose process died."""
    return CaseFailure(case=case.id, code="E-WORKER", message=ending, remedy="Use fewer workers, or look at its files.")


def _read(case: Case, dataset: Dataset, settings: PreprocessSettings) -> tuple[Volume, LabelMap | None]:
    volume = read_volumes(
        case.images, settings.over(dataset.reading_of(case)), channels=len(dataset.channels), missing=case.missing
    )
    return volume, read_reference(case, dataset, settings, onto=volume.geometry)
