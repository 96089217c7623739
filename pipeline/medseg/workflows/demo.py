"""`medseg demo`: the whole main job on the embedded cohort."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medseg.core.progress import Progress, silent
from medseg.core.settings import Settings, merge
from medseg.workflows.check import check
from medseg.workflows.evaluate import Evaluated, evaluate
from medseg.workflows.infer import infer
from medseg.workflows.preprocess import preprocess
from medseg.workflows.train import Trained, train

if TYPE_CHECKING:
    from medseg.core.doctor import CheckReport
    from medseg.engine.clock import Status
    from medseg.workflows.workspace import Workspace

TEST_SPLIT = "test"
# One patch holds a case of such voxels, and two of them make a step: enough steps in minutes on a CPU without bf16.
_SPACING_MM = (4.0, 4.0, 4.0)
_BATCH_SIZE = 2


@dataclass(frozen=True)
class Demonstrated:
    """The check of the cohort, the training, and the evaluation on its test cases."""

    checked: CheckReport
    trained: Trained
    evaluated: Evaluated


def demo(
    workspace: Workspace,
    settings: Settings,
    *,
    budget: str = "220s",
    progress: Progress = silent,
    watch: Callable[[Status], None] = lambda _: None,
) -> Demonstrated:
    """Make the cohort, check, preprocess, train for `budget`, predict and evaluate its test cases.

    Voxels are coarse and steps small unless the settings say otherwise: minutes have to be enough. The test cases are
    neither trained on nor looked at while training.
    """
    settings = merge(settings, "preprocess", {"spacing_mm": settings.preprocess.spacing_mm or _SPACING_MM})
    batch_size = settings.train.batch_size or _BATCH_SIZE
    settings = merge(settings, "train", {"budget": budget, "batch_size": batch_size})
    settings = merge(settings, "evaluate", {"split": TEST_SPLIT})
    checked = check(workspace, progress=progress)
    preprocess(workspace, settings.preprocess, progress=progress)
    trained = train(workspace, settings.train, name="demo", restart=True, progress=progress, watch=watch)
    manifest = workspace.folder / "phantom" / "manifest.json"
    infer(
        trained.bundle,
        workspace.predictions / "demo",
        settings.infer,
        folder=manifest,
        split=TEST_SPLIT,
        progress=progress,
    )
    evaluated = evaluate(
        workspace,
        workspace.predictions / "demo",
        workspace.reports / "demo",
        settings.evaluate,
        manifest=manifest,
        progress=progress,
    )
    return Demonstrated(checked, trained, evaluated)
