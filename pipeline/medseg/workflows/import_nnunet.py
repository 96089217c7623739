"""`medseg import-nnunet`: a trained nnU-Net v2 model -> a bundle that answers alike."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch

from medseg.core.errors import ModelError
from medseg.io.bundle import BundleManifest, write_bundle
from medseg.io.files import require_writable
from medseg.io.nnunet import read_nnunet
from medseg.nn.build import build_network
from medseg.nn.nnunet import convert_weights
from medseg.planning.nnunet import axes_of, plan_of
from medseg.workflows.model_card import model_card
from medseg.workflows.provenance import make_provenance

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.core.plan import Plan
    from medseg.io.nnunet import NnunetModel


def import_nnunet(folder: Path, out: Path, *, folds: tuple[str, ...] = (), best: bool = False) -> BundleManifest:
    """Read, translate, try once, write.

    Args:
        folder: nnU-Net's TRAINER__PLANS__CONFIGURATION.
        out: Bundle to write.
        folds: Which folds; all that are there when empty, as an ensemble.
        best: `checkpoint_best.pth` instead of `checkpoint_final.pth`.

    Raises:
        ModelError: `E-NNUNET`, `E-PICKLE`, `E-WEIGHTS`, as `read_nnunet` and `plan_of`.
        InputError: `E-NOT-WRITABLE`.
    """
    model = read_nnunet(folder, folds=folds, checkpoint="checkpoint_best.pth" if best else "checkpoint_final.pth")
    plan = plan_of(model)
    weights = [_converted(model, plan, state) for state in model.weights]
    require_writable(out)
    validation = {"dice": sum(model.dice.values()) / len(model.dice)} if model.dice else {}
    manifest = BundleManifest(
        name=f"{model.plans.dataset_name}-{model.trainer}",
        dataset=model.plans.dataset_name,
        licence=model.dataset.licence,
        labels=plan.labels,
        heads={},
        channels=plan.channels,
        num_training_cases=model.dataset.num_training,
        num_validation_cases=0,
        training_cases=(),
        validation=validation,
        finished=True,
        sha256={},
        provenance=make_provenance(model.plans.dataset_name),
    )
    return write_bundle(
        out,
        manifest,
        plan,
        weights=weights,
        metrics=json.dumps({"validation": model.dice}, indent=2) + "\n",
        card=model_card(manifest, plan),
    )


def _converted(model: NnunetModel, plan: Plan, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights under our names, tried in the network that the plan describes."""
    network = build_network(plan)
    try:
        weights = convert_weights(state, axes_of(model))
        network.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise ModelError(
            f"its weights are not those of the network that plans.json describes ({str(error).splitlines()[0]})",
            code="E-NNUNET",
            file=model.folder,
            remedy="Check that plans.json and the checkpoints belong together.",
        ) from error
    with torch.inference_mode():
        answer = network.eval()(torch.zeros(1, len(plan.channels), *plan.patch_size)).logits[0]
    if not bool(torch.isfinite(answer).all()):
        message = "its network answers an empty image with numbers that are not finite"
        raise ModelError(message, code="E-NUMERIC", file=model.folder, remedy="The model is broken: train it again.")
    return weights
