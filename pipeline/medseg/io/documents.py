"""JSON files that are `Document`s."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeVar

from medseg.core.document import Document
from medseg.core.errors import InputError, UsageError
from medseg.io.files import require_file

if TYPE_CHECKING:
    from pathlib import Path

AnyDocument = TypeVar("AnyDocument", bound=Document)


def read_document(
    path: Path, model: type[AnyDocument], *, remedy: str = "Mend the file or make it again."
) -> AnyDocument:
    """Read and validate one JSON file.

    Args:
        path: Of the file.
        model: What it must be.
        remedy: For a file that it is not.

    Raises:
        InputError: E-JSON when it is not JSON.
        UsageError: E-CONFIG when a key or a value is not what the model allows.
    """
    file = require_file(path)
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"not valid JSON: {error}", code="E-JSON", file=path, remedy=remedy) from error
    try:
        return model.parse(values, file=path)
    except UsageError as error:
        error.remedy = remedy
        raise
