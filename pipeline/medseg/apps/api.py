"""The verbs for Python: the same workflows as the command line, with plain arguments and defaults.

Settings are keyword arguments named as in configs/default.yaml: `medseg.train(workspace="work", budget="30m", seed=3)`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.apps.batch import engine_of
from medseg.core.settings import Settings, merge
from medseg.engine.predict import Predictor
from medseg.io.contained import contained
from medseg.workflows import check as _check
from medseg.workflows import evaluate as _evaluate
from medseg.workflows import preprocess as _preprocess
from medseg.workflows import train as _train
from medseg.workflows.evaluate_inputs import open_inputs
from medseg.workflows.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

    from medseg.core.doctor import CheckReport
    from medseg.core.prediction import Prediction
    from medseg.data.store import Store
    from medseg.workflows.evaluate import Evaluated
    from medseg.workflows.train import Trained

WORKSPACE = "medseg-work"


def check(manifest: Path | str | None = None, *, workspace: Path | str = WORKSPACE) -> CheckReport:
    """Read every case of a manifest (or of the embedded cohort) and list what is wrong."""
    return _check.check(Workspace(Path(workspace)), _path(manifest))


def preprocess(manifest: Path | str | None = None, *, workspace: Path | str = WORKSPACE, **settings: Any) -> Store:
    """Fingerprint, plan and store a dataset.

    Args:
        manifest: From `import_dataset`; the embedded cohort when absent.
        workspace: Where results go.
        **settings: The `preprocess` section of configs/default.yaml.
    """
    chosen = merge(Settings(), "preprocess", {"manifest": _path(manifest), **settings}).preprocess
    with engine_of(chosen) as each:
        return _preprocess.preprocess(Workspace(Path(workspace)), chosen, each=each)


def train(
    *, workspace: Path | str = WORKSPACE, name: str | None = None, restart: bool = False, **settings: Any
) -> Trained:
    """Train on the workspace's store; the model folder is `.bundle` of the result.

    Args:
        workspace: With a store.
        name: Of the run.
        restart: Throw away an earlier run of that name.
        **settings: The `train` section of configs/default.yaml.
    """
    chosen = merge(Settings(), "train", settings).train
    return _train.train(Workspace(Path(workspace)), chosen, name=name, restart=restart)


def infer(
    volume: Any,
    *,
    bundle: Path | str,
    affine: ArrayLike | None = None,
    attributes: Mapping[str, str] | None = None,
    **settings: Any,
) -> Prediction:
    """Predict one case and return the answer; for many cases keep a `Predictor`.

    Args:
        volume: A file, a DICOM folder, one file per channel, a `Volume`, a nibabel or SimpleITK image, or an array.
        bundle: The model's folder.
        affine: (4, 4) voxel indices to RAS+ mm, for an array.
        attributes: Clinical columns of a model that reads some: {"age": "63"}.
        **settings: The `infer` section of configs/default.yaml; one case needs no `engine`.

    Returns:
        Mask on the volume's own grid and class probabilities; nothing is written.
    """
    chosen = merge(Settings(), "infer", settings).infer
    chosen.require_local()
    with contained(chosen), Predictor(bundle, chosen) as predictor:
        return predictor.predict(volume, affine=affine, attributes=attributes)


def evaluate(
    predictions: Path | str,
    *,
    out: Path | str,
    manifest: Path | str | None = None,
    references: Path | str | None = None,
    workspace: Path | str = WORKSPACE,
    **settings: Any,
) -> Evaluated:
    """Score a folder of masks and write the reports.

    Args:
        predictions: Folder of `CASE.nii.gz`.
        out: Reports go here.
        manifest: With the references.
        references: A folder of reference masks instead.
        workspace: Holds the embedded cohort.
        **settings: The `evaluate` section of configs/default.yaml; `jobs` is 1 unless given: more processes need a
            script that guards its start with `if __name__ == "__main__"`.
    """
    chosen = merge(Settings(), "evaluate", {"jobs": 1, **settings}).evaluate
    place, source = Workspace(Path(workspace)), Path(predictions)
    inputs = open_inputs(place, source, chosen, manifest=_path(manifest), references=_path(references))
    with engine_of(chosen) as each:
        return _evaluate.evaluate_opened(inputs, source, Path(out), chosen, each=each)


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)
