"""What makes a training the same one: what must not change between a checkpoint and its resumption."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from medseg.core.clinical import as_number, given
from medseg.core.plan import MISSING_CLASS

if TYPE_CHECKING:
    from medseg.core.case import Case
    from medseg.core.plan import Plan
    from medseg.core.settings import TrainSettings
    from medseg.core.transfer import Transfer
    from medseg.data.splits import Split
    from medseg.data.store import Store, StoredCase

_FREE = {"budget", "epochs", "batch_size", "device", "rank_timeout_s", "init_from", "ram_gib"}
_FREE |= {"amp", "learning_rate", "gradient_clip", "deterministic", "accumulate", "compile"}
_UNKNOWN = "unknown"


def training_identity(store: Store, split: Split, settings: TrainSettings, transfer: Transfer | None) -> dict[str, str]:
    """What must not change, each in words that can be shown.

    The length may change, and so may what is changed to get a training through: device, precision, rate and batch.
    Of a case that is only validated on, the arrays must not change; of a training case, nor may what it teaches.
    """
    stored = {case.id: case for case in store.index.cases}
    given_of = {case.id: case for case in store.dataset.cases}
    shaping = settings.model_dump(mode="json", exclude=_FREE, exclude_defaults=True)
    plan = store.plan.model_dump(
        mode="json", exclude={"decisions", "terms", "batch_size", "labels"}, exclude_defaults=True
    )
    identity = {
        **_flat("train", shaping),
        **({} if transfer is None else {"weights to start with": transfer.weights_sha256}),
        **_flat("plan", plan),
        **{f"label {name}": str(value) for name, value in store.plan.labels.items()},
        **{f"training case {case}": stored[case].sha256 for case in split.train},
        **{f"validation case {case}": stored[case].sha256 for case in split.val},
    }
    for case in split.train:
        identity |= _taught(stored[case], store.plan) | _attributes(given_of[case], store.plan)
    return identity


def _taught(case: StoredCase, plan: Plan) -> dict[str, str]:
    """What a case teaches beside its arrays; a class by its name, a label only where nobody drew it."""
    where, diagnosis = f"training case {case.id}", plan.classification
    told = {}
    for head, names in (diagnosis.heads if diagnosis else {}).items():
        index = case.classes.get(head, MISSING_CLASS)
        told[f"{head} of {where}"] = _UNKNOWN if index == MISSING_CLASS else names[index]
    for name in diagnosis.targets if diagnosis else {}:
        told[f"{name} of {where}"] = repr(case.values[name]) if name in case.values else _UNKNOWN
    has_reference = bool(case.known) and case.known[0]
    unseen = [
        name for name, known in zip(plan.label_names, case.known[1:], strict=False) if has_reference and not known
    ]
    return told | {f"{where} without {name}": "not drawn" for name in unseen}


def _attributes(case: Case, plan: Plan) -> dict[str, str]:
    """Of the plan's clinical columns; a number written otherwise is the same number."""
    told = given(case.attributes, plan.clinical)
    numbers = {column.name: as_number(told.get(column.name, "")) for column in plan.clinical if not column.levels}
    told |= {name: repr(number) for name, number in numbers.items() if number is not None}
    return {
        f"attribute {column.name} of training case {case.id}": told.get(column.name, _UNKNOWN)
        for column in plan.clinical
    }


def _flat(prefix: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {prefix: json.dumps(value)}
    parts = [_flat(f"{prefix}.{key}", inner) for key, inner in value.items()]
    return {key: text for part in parts for key, text in part.items()}
