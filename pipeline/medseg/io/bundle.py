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
from medseg.core.errors import MedsegError, ModelError
from medseg.core.findings import Provenance
from medseg.core.plan import Fingerprint, NetworkPlan, Plan
from medseg.io.documents import read_document
from medseg.io.files import atomic_path, remove_unfinished, sha256_of, staged_folder, write_text
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
    """Write a bundle, beside what the folder holds until all of it is there: whoever reads meanwhile reads the old one.

    Then the files change places and the manifest goes last, so that a folder without one is unfinished.

    Raises:
        InputError: `E-NOT-WRITABLE` or `E-DISK-FULL`; the old bundle is whole then.
    """
    remove_unfinished(folder)
    members = [_member(number) for number in range(1, len(weights) + 1)]
    with atomic_path(folder / MANIFEST) as manifest_file:
        with staged_folder(folder) as made:
            for name, tensors in zip(members, weights, strict=True):
                save_tensors(made / name, tensors)
            words = {PLAN: plan.to_json(), METRICS: metrics, CARD: card}
            words |= {} if fingerprint is None else {FINGERPRINT: fingerprint.to_json()}
            for name, text in words.items():
                write_text(made / name, text)
            hashes = {name: sha256_of(made / name) for name in (*members, *words)}
            seals = {"weights_sha256": " ".join(hashes[name] for name in members), "plan_sha256": hashes[PLAN]}
            provenance = manifest.provenance.model_copy(update={"model": manifest.name, **seals})
            sealed = manifest.model_copy(update={"sha256": hashes, "provenance": provenance})
            manifest_file.write_text(sealed.to_json(), encoding="utf-8")
            (folder / MANIFEST).unlink(missing_ok=True)
        for stale in {FINGERPRINT, *(path.name for path in folder.glob(_member("*")))} - hashes.keys():
            (folder / stale).unlink(missing_ok=True)
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
    try:
        return _verified(folder, manifest)
    except MedsegError:
        newer = read_document(folder / MANIFEST, BundleManifest)
        if newer == manifest:
            raise
    return _verified(folder, newer)  # a training put its next model there while this one was being read


def _verified(folder: Path, manifest: BundleManifest) -> Bundle:
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


def _member(number: int | Literal["*"]) -> str:
    return WEIGHTS if number == 1 else f"{Path(WEIGHTS).stem}-{number}{Path(WEIGHTS).suffix}"
