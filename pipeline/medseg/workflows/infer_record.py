"""What lies in an output folder of one case: whether it still stands, putting it there, taking it away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medseg.core.batch import Batching
from medseg.core.errors import InputError, MedsegError
from medseg.core.findings import CasePrediction
from medseg.core.reading import Containment
from medseg.io.documents import read_document
from medseg.io.files import sha256_of
from medseg.io.seals import still_holds

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.core.findings import Provenance
    from medseg.workflows.inputs import InferCase

_NO_DIFFERENCE = {"device", *Batching.model_fields, *Containment.model_fields}


def record_of(case_id: str, out: Path) -> Path:
    return out / f"{case_id}.json"


def standing(case: InferCase, out: Path, wanted: Provenance) -> CasePrediction | str | None:
    """An earlier result that still stands; else why it does not; None when there is none.

    It stands when every file is the one that was written, every input is the one that was read, and model and settings
    are those wanted. The device and how the work is shared out make no difference.
    """
    if not record_of(case.id, out).exists():
        return None
    try:
        found = read_document(record_of(case.id, out), CasePrediction)
    except MedsegError:
        return "its record cannot be read"
    return _other_making(found.provenance, wanted) or _damage(found, out) or _other_input(found, case) or found


def commit(staged: Path, out: Path, made: CasePrediction) -> None:
    """Move a case's files to their place, its record last: a case without a record that agrees is not done."""
    stale = _files_of(made.case, out) - set(made.sha256)
    record_of(made.case, staged).write_text(made.to_json(), encoding="utf-8")
    for name in made.sha256:
        (staged / name).replace(out / name)
    record_of(made.case, staged).replace(record_of(made.case, out))
    for name in stale:
        (out / name).unlink(missing_ok=True)
    staged.rmdir()


def discard(case_id: str, out: Path) -> None:
    """Take away what an earlier run left of a case that has failed now: it belongs to another input or model."""
    stale = _files_of(case_id, out)
    record_of(case_id, out).unlink(missing_ok=True)
    for name in stale:
        (out / name).unlink(missing_ok=True)


def _files_of(case_id: str, out: Path) -> set[str]:
    """Names in the folder that an earlier record calls its own."""
    try:
        found = read_document(record_of(case_id, out), CasePrediction)
    except MedsegError:
        return set()
    return {name for name in found.sha256 if name.startswith(f"{case_id}.") and "/" not in name and "\\" not in name}


def _other_making(found: Provenance, wanted: Provenance) -> str | None:
    if (found.weights_sha256, found.plan_sha256) != (wanted.weights_sha256, wanted.plan_sha256):
        return f"another model made it ({found.model})"
    for name in sorted((found.settings.keys() | wanted.settings.keys()) - _NO_DIFFERENCE):
        before, now = found.settings.get(name), wanted.settings.get(name)
        if before != now:
            return f"the setting {name} was {before}, now {now}"
    return None


def _damage(found: CasePrediction, out: Path) -> str | None:
    if set(found.files.values()) - set(found.sha256):
        return "its record names no hash of its files"
    for name, expected in found.sha256.items():
        try:
            written = sha256_of(out / name)
        except InputError:
            return f"{name} is missing"
        if written != expected:
            return f"{name} is not what was written"
    return None


def _other_input(found: CasePrediction, case: InferCase) -> str | None:
    if found.clinical != dict(case.attributes):
        return "what is known of the patient has changed"
    if len(found.inputs) != len(case.images):
        return "it was made from other inputs"
    for seal, path in zip(found.inputs, case.images, strict=True):
        try:
            if not still_holds(seal, path):
                return f"the input {path.name} has changed"
        except InputError:
            return f"the input {path.name} cannot be read"
    return None
