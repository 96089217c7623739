"""Training that starts from another model's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medseg.core.document import Document
from medseg.core.errors import ModelError
from medseg.core.transfer import Transfer
from medseg.io.bundle import WEIGHTS, read_bundle
from medseg.nn.build import build_network
from medseg.nn.transfer import is_encoder, take_over

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from medseg.core.plan import Plan

REPORT = "transfer.json"
_COMPARED = ("spacing_mm", "orientation", "crop", "normalisation", "coarse_axis", "channels")


def start_from(bundle: Path, plan: Plan, *, seed: int) -> tuple[dict[str, Tensor], Transfer]:
    """The weights with which a training starts: the bundle's where they fit, fresh ones elsewhere.

    Args:
        bundle: A model folder with one network.
        plan: Of the network to be trained.
        seed: Of the fresh weights.

    Raises:
        ModelError: E-NO-MODEL and its kin; E-INIT-FROM when nothing of its encoder fits, or it is an ensemble.
    """
    source = read_bundle(bundle)
    if len(source.weights) > 1:
        raise ModelError(
            f"a training starts from one network, this is an ensemble of {len(source.weights)}",
            code="E-INIT-FROM",
            file=bundle,
            remedy="Name the bundle of one of its members.",
        )
    fresh = build_network(plan, seed=seed).state_dict()
    weights, layers = take_over(fresh, source.weights[0], plan, source.plan)
    convolutions = [layer for layer in layers if is_encoder(layer.name) and fresh[layer.name].ndim > 1]
    if all(layer.state == "fresh" for layer in convolutions):
        there, here = source.plan.network, plan.network
        raise ModelError(
            f"no layer of its encoder fits this network: it is {there.kind} with features {there.features}, "
            f"the store's plan has {here.kind} with {here.features}",
            code="E-INIT-FROM",
            file=bundle,
            remedy="Put the `network` section of the bundle's plan.json into that of the store, then train.",
        )
    values = [(key, getattr(source.plan, key), getattr(plan, key)) for key in _COMPARED]
    return weights, Transfer(
        bundle=source.manifest.name,
        weights_sha256=source.manifest.sha256[WEIGHTS],
        layers=layers,
        left=tuple(name for name in source.weights[0] if name not in fresh),
        differences=tuple(
            f"{key} was {_short(there)}, is {_short(here)}" for key, there, here in values if there != here
        ),
    )


def _short(value: object) -> str:
    text = _words(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _words(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_words, value))
    if isinstance(value, Document):
        return ", ".join(f"{key} {_words(one)}" for key, one in value.model_dump(exclude_defaults=True).items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)
