"""What a verb would do, and what it would cost, without doing it (`--dry-run`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medseg.core.forecast import Forecast
from medseg.core.progress import Progress, silent
from medseg.workflows.evaluate_inputs import open_inputs
from medseg.workflows.preprocess import plan_dataset

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.core.plan import Plan
    from medseg.core.settings import EvaluateSettings, PreprocessSettings
    from medseg.workflows.workspace import Workspace

_MIB = 2**20


def forecast_check(workspace: Workspace, manifest: Path | None) -> Forecast:
    """How much there is to read."""
    dataset = workspace.dataset(manifest)
    files = [path for case in dataset.cases for path in (*case.images, case.label) if path is not None]
    size = sum(path.stat().st_size for path in files if path.is_file())
    return Forecast(
        rows=(
            ("dataset", dataset.name),
            ("cases", str(len(dataset.cases))),
            ("files", f"{len(files)}, {size / _MIB:,.0f} MiB as stored"),
            ("missing files", str(sum(not path.exists() for path in files))),
        )
    )


def forecast_demo(workspace: Workspace, budget: str) -> Forecast:
    """The steps of the demo and where their results go."""
    return Forecast(
        rows=(
            ("cohort", str(workspace.folder / "phantom")),
            ("check, preprocess", str(workspace.store)),
            (f"train for {budget}", str(workspace.runs / "demo")),
            ("infer the test cases", str(workspace.predictions / "demo")),
            ("evaluate", str(workspace.reports / "demo" / "index.html")),
        )
    )


def forecast_preprocess(
    workspace: Workspace, settings: PreprocessSettings, *, progress: Progress = silent
) -> tuple[Forecast, Plan]:
    """The plan that would be used, and the size of the store."""
    dataset = workspace.dataset(settings.manifest, progress=progress)
    fingerprint, plan, failures = plan_dataset(dataset, settings, progress=progress)
    rows = [("cases", str(len(dataset.cases))), ("cases that cannot be read", str(len(failures)))]
    if fingerprint is not None:
        ratio = np.prod(fingerprint.median_spacing_mm) / np.prod(plan.spacing_mm)
        voxels = float(np.prod(fingerprint.median_shape)) * float(ratio)
        mib = voxels * (2 * len(plan.channels) + 1) * len(dataset.cases) / _MIB
        rows.append(("size of the store", f"about {mib:,.0f} MiB"))
    rows.append(("store", str(workspace.store)))
    return Forecast(rows=tuple(rows)), plan


def forecast_evaluate(
    workspace: Workspace,
    predictions: Path,
    out: Path,
    settings: EvaluateSettings,
    *,
    manifest: Path | None = None,
    references: Path | None = None,
) -> Forecast:
    """How many cases have a reference and a prediction."""
    inputs = open_inputs(workspace, predictions, settings, manifest=manifest, references=references)
    cases = inputs.dataset.cases
    found = sum(case.id in inputs.masks or (predictions / f"{case.id}.json").is_file() for case in cases)
    return Forecast(
        rows=(
            ("cases with a reference", str(len(cases))),
            ("of these with a prediction", str(found)),
            ("predictions without a reference", str(len(set(inputs.masks) - inputs.ids))),
            ("labels", ", ".join(f"{name} = {value}" for name, value in inputs.dataset.labels.items()) or "none"),
            ("processes", str(inputs.processes(settings.jobs))),
            ("report", str(out / "index.html")),
        )
    )
