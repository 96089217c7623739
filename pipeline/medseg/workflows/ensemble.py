"""`medseg ensemble`: several bundles with one plan -> one bundle whose members answer together."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from medseg.core.errors import ModelError, UsageError
from medseg.io.bundle import BundleManifest, read_bundle, write_bundle
from medseg.io.files import require_writable
from medseg.workflows.model_card import model_card
from medseg.workflows.provenance import make_provenance

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def ensemble(bundles: Sequence[Path], out: Path) -> BundleManifest:
    """Put models together: the mean of their logits and of their class probabilities.

    Args:
        bundles: At least two, such as the folds of one training.
        out: Bundle to write.

    Raises:
        UsageError: `E-ENSEMBLE` when there are fewer than two.
        ModelError: `E-ENSEMBLE` when their plans differ: their networks do not see the same image.
    """
    if len(bundles) < 2:
        message = f"an ensemble has at least two members, got {len(bundles)}"
        raise UsageError(message, code="E-ENSEMBLE", remedy="Name two or more bundle folders.")
    models = [read_bundle(bundle) for bundle in bundles]
    first = models[0]
    for model in models[1:]:
        if model.plan != first.plan or model.manifest.labels != first.manifest.labels:
            raise ModelError(
                f"its plan is not that of {first.folder}",
                code="E-ENSEMBLE",
                file=model.folder,
                remedy="Train the members from one store, which gives them one plan.",
            )
    require_writable(out)
    training_cases = sorted({case for model in models for case in model.manifest.training_cases})
    manifest = first.manifest.model_copy(
        update={
            "name": f"{first.manifest.dataset}-ensemble",
            "num_training_cases": len(training_cases) or first.manifest.num_training_cases,
            "num_validation_cases": 0,
            "training_cases": tuple(training_cases),
            "validation": {},
            "finished": all(model.manifest.finished for model in models),
            "provenance": make_provenance(first.manifest.dataset),
        }
    )
    members = {model.manifest.name: model.manifest.validation for model in models}
    return write_bundle(
        out,
        manifest,
        first.plan,
        weights=[weights for model in models for weights in model.weights],
        metrics=json.dumps({"validation": {}, "members": members}, indent=2) + "\n",
        card=model_card(manifest, first.plan),
        fingerprint=first.fingerprint,
    )
