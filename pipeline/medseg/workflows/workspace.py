"""The folder in which the verbs find each other's results, so that bare commands chain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.core.case import Dataset
from medseg.core.errors import ModelError, UsageError
from medseg.core.progress import Progress, silent
from medseg.data.manifest import read_manifest
from medseg.data.phantom import make_phantom
from medseg.workflows.config import packaged

if TYPE_CHECKING:
    from medseg.io.bundle import BundleManifest


FOLDS = "folds"  # a cross-validation without a name


@dataclass(frozen=True)
class Workspace:
    """`store/`, `runs/`, `predictions/`, `reports/` and the embedded cohort under one folder."""

    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def run(self, name: str | None, fold: int | None) -> Path:
        """The folder of a training, by default named after its fold.

        Raises:
            UsageError: `E-OPTION`, a name that leads out of `runs/`, where a restart would empty some other folder.
        """
        chosen = Path(name or ("main" if fold is None else f"fold{fold}"))
        if chosen.is_absolute() or ".." in chosen.parts or not chosen.parts:
            raise UsageError(
                f"the name of a run must lie in {self.runs}, got {name!r}",
                code="E-OPTION",
                remedy="Give a --name such as `main`, or another --workspace.",
            )
        return self.runs / chosen

    @property
    def predictions(self) -> Path:
        return self.folder / "predictions"

    @property
    def reports(self) -> Path:
        return self.folder / "reports"

    def dataset(self, manifest: Path | None, *, progress: Progress = silent) -> Dataset:
        """Open a manifest; without one, the embedded phantom cohort, made on first use."""
        dataset = read_manifest(manifest or packaged("data_manifests", "phantom.json"))
        if dataset.generator is None:
            return dataset
        made = make_phantom(
            self.folder / "phantom",
            seed=dataset.generator.seed,
            num_cases=dataset.generator.num_cases,
            class_noise=dataset.generator.class_noise,
            progress=progress,
        )
        return read_manifest(made)

    def newest_bundle(self) -> Path:
        """The bundle of the training that finished last.

        Raises:
            ModelError: E-NO-MODEL when there is none.
        """
        bundles = self._bundles()
        finished = [(manifest.provenance.created, folder) for manifest, folder in bundles if manifest.finished]
        if finished:
            return max(finished)[1]
        unfinished = self.unfinished_bundle()
        early = "" if unfinished is None else f" (--bundle {unfinished} uses the unfinished one)"
        raise ModelError(
            "no finished model in this workspace",
            code="E-NO-MODEL",
            file=self.folder,
            remedy=f"Run `medseg train --workspace {self.folder}` first{early}, or name a model with --bundle.",
        )

    def unfinished_bundle(self) -> Path | None:
        """The newest model of a training that has not ended."""
        early = [(manifest.provenance.created, folder) for manifest, folder in self._bundles() if not manifest.finished]
        return max(early)[1] if early else None

    def _bundles(self) -> list[tuple[BundleManifest, Path]]:
        from medseg.io.bundle import MANIFEST, BundleManifest  # here: torch takes seconds, and not every verb needs it
        from medseg.io.documents import read_document

        return [(read_document(path, BundleManifest), path.parent) for path in self.runs.glob(f"*/bundle/{MANIFEST}")]
