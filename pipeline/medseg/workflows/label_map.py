"""Another tool's mask values as our labels: `--map liver=1:5`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medseg.core.document import suggest
from medseg.core.errors import InputError, UsageError
from medseg.core.volume import LabelMap
from medseg.data.contents import values_in

BACKGROUND = "background"
_ENTRY = re.compile(r"(?P<name>[^=]+)=(?:(?P<reference>\d+):)?(?P<predicted>\d+(?:\+\d+)*|\*)")
_SHAPE = "Write NAME=PREDICTED or NAME=REFERENCE:PREDICTED, as liver=5 or lung=3:10+11; background=* for all others."
_LARGEST = 65535


@dataclass(frozen=True)
class Relabelling:
    """What the values of predicted masks mean.

    Attributes:
        labels: Name to value in the references.
        values: Value in the predictions to value in the references, 0 being background.
        rest_is_background: Values that `values` does not hold count as background instead of being refused.
    """

    labels: dict[str, int]
    values: dict[int, int]
    rest_is_background: bool = False

    def applied(self, mask: LabelMap) -> LabelMap:
        """A predicted mask with the values of the references.

        Raises:
            InputError: `E-LABEL-UNKNOWN`, a value that no label claims.
        """
        found = values_in(mask)
        unknown = [value for value in found if value and value not in self.values]
        if unknown and not self.rest_is_background:
            shown = ", ".join(map(str, unknown[:8])) + (f" and {len(unknown) - 8} more" if len(unknown) > 8 else "")
            raise InputError(
                f"the prediction holds values that no label claims: {shown}; known: {self._described()}",
                code="E-LABEL-UNKNOWN",
                file=mask.source,
                remedy="Say what they are with --map NAME=VALUE, or leave them out with --map 'background=*'.",
            )
        if all(self.values.get(value, 0) == value for value in found):
            return mask
        table = np.zeros(max(found) + 1, dtype=np.uint8 if max(self.values.values(), default=0) < 256 else np.uint16)
        for value in found:
            table[value] = self.values.get(value, 0)
        return replace(mask, array=table[mask.array])

    def _described(self) -> str:
        names = {value: name for name, value in self.labels.items()} | {0: BACKGROUND}
        return ", ".join(f"{value} {names[meant]}" for value, meant in self.values.items() if meant in names) or "none"


def parse_label_map(
    entries: Sequence[str], labels: Mapping[str, int], *, ignore_value: int | None = None
) -> Relabelling:
    """Read `--map`.

    `NAME=P`: what the predictions call P (or any of `P+Q+R`) is NAME. `NAME=R:P` says as well that it is R in the
    references: checked where the references' labels are known, taken where they are not. `background=P` and
    `background=*` name what is not scored. Labels that no entry names keep their value. A prediction's ignore value is
    background.

    Args:
        entries: Each one entry, or several with commas between.
        labels: Name to value in the references; empty: unknown.
        ignore_value: Of the references.

    Raises:
        UsageError: `E-LABEL-MAP`, an entry that cannot be read or contradicts the labels or another one.
    """
    known = dict(labels)
    claims: dict[str, list[int]] = {}
    rest = False
    for entry in (part.strip() for text in entries for part in text.split(",")):
        name, reference, predicted = _read(entry)
        if name != BACKGROUND:
            known[name] = _reference_value(name, reference, labels, known, entry)
        elif reference:
            raise _refused(entry, "background is 0 in the references")
        elif predicted == "*":
            rest = True
            continue
        claims.setdefault(name, []).extend(int(value) for value in predicted.split("+"))
    claims |= {name: [value] for name, value in known.items() if name not in claims}
    values: dict[int, int] = {} if ignore_value is None else {ignore_value: 0}
    owners: dict[int, str] = {}
    for name, claimed in claims.items():
        for value in claimed:
            if not 1 <= value <= _LARGEST:
                raise _refused(f"{name}={value}", f"values of labels are 1 to {_LARGEST}")
            if owners.setdefault(value, name) != name:
                message = f"value {value} of the predictions would be both {owners[value]} and {name}"
                raise _refused(", ".join(entries), message)
            values[value] = known.get(name, 0)
    return Relabelling(known, values, rest)


def _read(entry: str) -> tuple[str, str, str]:
    match = _ENTRY.fullmatch(entry)
    if match is None or (match["predicted"] == "*" and match["name"].strip() != BACKGROUND):
        raise _refused(entry, "it cannot be read")
    return match["name"].strip(), match["reference"] or "", match["predicted"]


def _reference_value(name: str, written: str, labels: Mapping[str, int], known: Mapping[str, int], entry: str) -> int:
    if not written:
        if name not in known:
            raise _refused(entry, f"unknown label {name!r}: {suggest(name, [*known, BACKGROUND])}")
        return known[name]
    value = int(written)
    if labels and name not in labels:
        raise _refused(entry, f"unknown label {name!r}: {suggest(name, [*labels, BACKGROUND])}")
    if known.get(name, value) != value:
        raise _refused(entry, f"{name} is {known[name]} in the references, not {value}")
    if value in (other for label, other in known.items() if label != name) or not 1 <= value <= _LARGEST:
        raise _refused(entry, f"{value} of the references is no free value of a label")
    return value


def _refused(entry: str, reason: str) -> UsageError:
    return UsageError(f"cannot use --map {entry!r}: {reason}", code="E-LABEL-MAP", remedy=_SHAPE)
