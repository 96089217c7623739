"""Names of labels that a mask file carries: segments of a .seg.nrrd, DICOM SEG or RTSTRUCT, a NIfTI label table."""

from __future__ import annotations

import re
from pathlib import Path

from medseg.io.contained import containable
from medseg.io.decoded import Decoded, ReadOptions
from medseg.io.streams import open_stream
from medseg.io.worded import facts_of, worded

_HEAD_BYTES = 1 << 18
_CARET = re.compile(r'<Label\s[^>]*Key="(\d{1,5})"[^>]*>\s*(?:<!\[CDATA\[)?([^<\]]{1,200})')
_SEGMENT = re.compile(r"^Segment(\d+)_(Name|LabelValue|Layer):=(.*)$", re.MULTILINE)


def read_label_names(path: Path | str) -> dict[str, int]:
    """Name to value as the file's header says; empty when it says nothing.

    Label tables in NIfTI are those of Connectome Workbench (a Caret extension); segments of a .seg.nrrd are read from
    its first layer. A name that stands twice gets its value behind it.
    """
    found = facts_of(find_label_names(Path(path), ReadOptions()))
    return {str(name): int(value) for name, value in found.items()}


@containable
def find_label_names(path: Path, _options: ReadOptions) -> Decoded:
    """The words that `read_label_names` makes its answer of."""
    return worded(_names_in(path))


def _names_in(path: Path) -> dict[str, int]:
    with open_stream(path) as stream:
        head = stream.peek(_HEAD_BYTES)
    if head[128:132] == b"DICM":
        from medseg.io.dicom_labels import names_in

        return names_in(path)
    if head.startswith(b"NRRD"):
        found = _segments(re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0].decode("utf-8", "replace"))
    elif b"<LabelTable>" in head:
        table = head[head.index(b"<LabelTable>") :].split(b"</LabelTable>")[0].decode("utf-8", "replace")
        found = [(name.strip(), int(value)) for value, name in _CARET.findall(table)]
    else:
        found = []
    names: dict[str, int] = {}
    for name, value in found:
        if value > 0 and value not in names.values():
            names[f"{name} {value}" if name in names else name] = value
    return names


def _segments(header: str) -> list[tuple[str, int]]:
    fields: dict[int, dict[str, str]] = {}
    for number, key, value in _SEGMENT.findall(header):
        fields.setdefault(int(number), {})[key] = value.strip()
    return [
        (segment["Name"], int(segment["LabelValue"]))
        for _, segment in sorted(fields.items())
        if segment.get("Name") and segment.get("LabelValue", "").isdigit() and segment.get("Layer", "0") == "0"
    ]
