"""`medseg ensemble`: several bundles with one plan -> one bundle whose members answer together."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from medseg.core.answering import Answering
from medseg.core.errors import ModelError, UsageError
from medseg.core.plan import NetworkPlan, Plan
from medseg.io.bundle import Bundle, BundleManifest, networks_of, read_bundle, write_bundle
from medseg.io.files import require_writable
from medseg.workflows.model_card import model_card
from medseg.workflows.provenance import make_provenance

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def ensemble(
    bundles: Sequence[Path],
    out: Path,
    *,
    name: str = "ensemble",
    answering: Answering | None = None,
    measured: dict[str, Any] | None = None,
) -> BundleManifest:
    """Put models together: the mean of their probabilities, voxel by voxel and class by class.

    Args:
        bundles: At least two, such as the folds of one training; their plans may differ in the network only.
        out: Bundle to write.
        name: What the model is called after its dataset.
        answering: Temperatures and cleaning of masks; absent: the members' own where all have the same.
        measured: What is known of its quality, for `metrics.json`.

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
        if not answer_alike(first, model):
            raise ModelError(
                f"its plan is not that of {first.folder}",
                code="E-ENSEMBLE",
                file=model.folder,
                remedy="Train the members from one store, or from stores whose plans differ in the network only.",
            )
    require_writable(out)
    training_cases = sorted({case for model in models for case in model.manifest.training_cases})
    manifest = first.manifest.model_copy(
        update={
            "name": f"{first.manifest.dataset}-{name}",
            "num_training_cases": len(training_cases) or first.manifest.num_training_cases,
            "num_validation_cases": 0,
            "training_cases": tuple(training_cases),
            "validation": {},
            "answering": _answering(models) if answering is None else answering,
            "networks": _networks(models),
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
        metrics=json.dumps({"validation": {}, "members": members, **(measured or {})}, indent=2) + "\n",
        card=model_card(manifest, first.plan),
        fingerprint=first.fingerprint,
    )


def answer_alike(first: Bundle, other: Bundle) -> bool:
    """Whether two models see the same image and name what they find alike, so that their answers can be averaged."""
    return _shared(first.plan) == _shared(other.plan) and first.manifest.labels == other.manifest.labels


def _shared(plan: Plan) -> Plan:
    """What members have in common: all but the network, and what only training looks at."""
    none = NetworkPlan(features=(1, 1), strides=((1, 1, 1),) * 2, kernels=((1, 1, 1),) * 2, blocks=(1, 1))
    return plan.model_copy(update={"network": none, "batch_size": 1, "decisions": ()})


def _networks(models: Sequence[Bundle]) -> tuple[NetworkPlan, ...]:
    """One per member; none when all are the plan's."""
    networks = tuple(network for model in models for network in networks_of(model))
    return networks if len(set(map(str, networks))) > 1 else ()


def _answering(models: Sequence[Bundle]) -> Answering:
    """Averaged in probabilities; temperatures and cleaning only where all members have the same."""
    known = [model.manifest.answering.model_copy(update={"combine": "probabilities"}) for model in models]
    return known[0] if all(one == known[0] for one in known) else Answering(combine="probabilities")
