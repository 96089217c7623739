"""The model folder: weights, plan, labels, metrics, provenance and a model card; nothing in it runs code.

bundle.json           what it is, with the hash of every other file
plan.json             how input is prepared and what the network looks like
fingerprint.json      what the training cases looked like; not in a model that was taken over
weights.safetensors   the weights; further members of an ensemble in weights-2.safetensors, ...
metrics.json          validation by step
README.md             the model card
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from medseg.core.answering import Answering
from medseg.core.document import Document
from medseg.core.errors import ModelError
from medseg.core.findings import Provenance
from medseg.core.plan import Fingerprint, NetworkPlan, Plan
from medseg.io.documents import read_document
from medseg.io.files import sha256_of, write_text
from medseg.io.weights import load_tensors, save_tensors, verify_sha256

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

MANIFEST, PLAN, FINGERPRINT, WEIGHTS, METRICS, CARD = (
    "bundle.json",
    "plan.json",
    "fingerprint.json",
    "weights.safetensors",
    "metrics.json",
    "README.md",
)


class BundleManifest(Document):
    """`bundle.json`."""

    schema_version: Literal[1] = 1
    name: str
    dataset: str
    licence: str = ""
    labels: dict[str, int]
    heads: dict[str, tuple[str, ...]]
    channels: tuple[str, ...]
    optional_channels: tuple[int, ...] = Field(default=(), description="channels that it was also trained without")
    num_training_cases: int
    num_validation_cases: int
    training_cases: tuple[str, ...] = Field(description="ids, so that a score on them can be told from an honest one")
    validation: dict[str, float] = Field(description="of the stored weights, on the cases held back from training")
    warnings: tuple[str, ...] = Field(default=(), description="W- codes and words: what to know before using it")
    answering: Answering = Field(default=Answering(), description="what is done with the raw answers")
    networks: tuple[NetworkPlan, ...] = Field(
        default=(), description="of each member of an ensemble, where they differ; absent: the plan's"
    )
    finished: bool = Field(description="False for a bundle written while its training still runs")
    num_steps: int = Field(default=0, description="of the finished training; 0 when there was none here")
    sha256: dict[str, str]
    provenance: Provenance


@dataclass(frozen=True, eq=False)
class Bundle:
    """A model that was read and verified.

    Attributes:
        weights: By tensor name; one set per member of an ensemble.
        fingerprint: What the training cases looked like, when that is known.
    """

    folder: Path
    manifest: BundleManifest
    plan: Plan
    weights: tuple[dict[str, Tensor], ...]
    fingerprint: Fingerprint | None = None


def write_bundle(
    folder: Path,
    manifest: BundleManifest,
    plan: Plan,
    *,
    weights: Sequence[dict[str, Tensor]],
    metrics: str,
    card: str,
    fingerprint: Fingerprint | None = None,
) -> BundleManifest:
    """Write a bundle; its manifest goes last, so that a folder without one is unfinished."""
    (folder / MANIFEST).unlink(missing_ok=True)
    members = [_member(number) for number in range(1, len(weights) + 1)]
    for stale in folder.glob(f"{Path(WEIGHTS).stem}-*{Path(WEIGHTS).suffix}"):
        stale.unlink()
    for name, tensors in zip(members, weights, strict=True):
        save_tensors(folder / name, tensors)
    write_text(folder / PLAN, plan.to_json())
    write_text(folder / METRICS, metrics)
    write_text(folder / CARD, card)
    (folder / FINGERPRINT).unlink(missing_ok=True)
    if fingerprint is not None:
        write_text(folder / FINGERPRINT, fingerprint.to_json())
    known = () if fingerprint is None else (FINGERPRINT,)
    hashes = {name: sha256_of(folder / name) for name in (*members, PLAN, METRICS, CARD, *known)}
    seals = {"weights_sha256": " ".join(hashes[name] for name in members), "plan_sha256": hashes[PLAN]}
    provenance = manifest.provenance.model_copy(update={"model": manifest.name, **seals})
    sealed = manifest.model_copy(update={"sha256": hashes, "provenance": provenance})
    write_text(folder / MANIFEST, sealed.to_json())
    return sealed


def read_bundle(folder: Path) -> Bundle:
    """Read and verify a bundle.

    Raises:
        ModelError: E-NO-MODEL when the folder holds none, E-HASH or E-WEIGHTS when a file is damaged.
    """
    if not (folder / MANIFEST).is_file():
        raise ModelError(
            f"not a model folder: it has no {MANIFEST}",
            code="E-NO-MODEL",
            file=folder,
            remedy="Name the `bundle` folder that `medseg train` printed.",
        )
    manifest = read_document(folder / MANIFEST, BundleManifest)
    count = sum(name.endswith(Path(WEIGHTS).suffix) for name in manifest.sha256)
    members = [_member(number) for number in range(1, max(count, 1) + 1)]
    known = tuple(name for name in (FINGERPRINT,) if name in manifest.sha256)
    for name in (PLAN, *members, *known):
        verify_sha256(folder / name, manifest.sha256.get(name, "in the manifest"))
    weights = tuple(load_tensors(folder / name) for name in members)
    fingerprint = read_document(folder / FINGERPRINT, Fingerprint) if known else None
    return Bundle(folder, manifest, read_document(folder / PLAN, Plan), weights, fingerprint)


def networks_of(bundle: Bundle) -> tuple[NetworkPlan, ...]:
    """The network of each member."""
    return bundle.manifest.networks or (bundle.plan.network,) * len(bundle.weights)


def _member(number: int) -> str:
    return WEIGHTS if number == 1 else f"{Path(WEIGHTS).stem}-{number}{Path(WEIGHTS).suffix}"
