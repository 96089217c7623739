"""Manifests: one JSON file that says which files, labels and classes belong to which case."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from medseg.core.case import Case, Dataset
from medseg.core.document import suggest
from medseg.core.errors import InputError, UsageError, case_context
from medseg.io.files import require_file, write_text


def read_manifest(path: Path | str) -> Dataset:
    """Read and check a manifest; no image is opened.

    Args:
        path: The JSON file; paths inside it are relative to its folder.

    Returns:
        The dataset, with absolute paths.

    Raises:
        InputError: `E-NOT-FOUND`, `E-MANIFEST-JSON`, `E-MANIFEST-EMPTY`: nothing there to work on.
        UsageError: `E-CONFIG`, `E-CASE-DUPLICATE`, `E-NAME-CLASH`, `E-CHANNELS`, `E-LABEL-NAME`, `E-CLASS-NAME`: a
            field is wrong.
    """
    path = Path(path).absolute()
    values = read_json_object(path)
    cases = values.pop("cases", [])
    dataset = Dataset.parse(values, file=path)
    if not isinstance(cases, list):
        raise UsageError(f"'cases' must be a list, got {type(cases).__name__}", code="E-CONFIG", file=path)
    if not cases and dataset.generator is None:
        raise InputError(
            "the manifest has no cases",
            code="E-MANIFEST-EMPTY",
            file=path,
            remedy="Add entries to 'cases', or make a manifest with `medseg import FOLDER`.",
        )
    dataset = dataset.model_copy(update={"cases": tuple(_parse_case(case, path) for case in cases)})
    check_names(dataset, file=path)
    return dataset


def write_manifest(dataset: Dataset, path: Path | str) -> None:
    """Write a manifest in one step; paths in it become relative to its folder, defaults are left out."""
    path = Path(path).absolute()
    check_names(dataset, file=path)
    values = {"schema_version": dataset.schema_version, "name": dataset.name}
    values |= dataset.model_dump(mode="json", exclude_defaults=True)
    values["channels"] = list(dataset.channels)
    values["cases"] = [_case_values(case, path.parent) for case in dataset.cases]
    write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def check_names(dataset: Dataset, *, file: Path) -> None:
    """Refuse cases whose ids, channels, labels or classes do not fit the dataset.

    Raises:
        UsageError: The first case at fault, named, with the field and the cure.
    """
    seen: dict[str, str] = {}
    for case in dataset.cases:
        twin = seen.setdefault(case.id.lower(), "")
        if twin:
            is_same = twin == case.id
            clash = f"its files and those of {twin} are the same on many systems"
            raise UsageError(
                "another case has this id" if is_same else clash,
                code="E-CASE-DUPLICATE" if is_same else "E-NAME-CLASH",
                file=file,
                case=case.id,
                remedy="Give every case an id of its own, upper and lower case taken as equal.",
            )
        seen[case.id.lower()] = case.id
        with case_context(case.id):
            _check_case(case, dataset, file)


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        InputError: `E-NOT-FOUND` and its kin, or `E-MANIFEST-JSON`.
    """
    try:
        values = json.loads(require_file(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise InputError(
            f"not JSON: {error}",
            code="E-MANIFEST-JSON",
            file=path,
            remedy="Correct the file at that place, or import it with `medseg import` if it is a table.",
        ) from error
    if not isinstance(values, dict):
        raise InputError(
            f"expected a JSON object with 'name' and 'cases', got {type(values).__name__}",
            code="E-MANIFEST-JSON",
            file=path,
        )
    return values


def _parse_case(values: Any, path: Path) -> Case:
    if not isinstance(values, dict):
        raise UsageError(f"a case must be an object, got {values!r:.80}", code="E-CONFIG", file=path)
    with case_context(str(values.get("id", "without id"))):
        case = Case.parse(values, file=path)
    folder = path.parent
    images = tuple(_absolute(image, folder) for image in case.images)
    label = None if case.label is None else _absolute(case.label, folder)
    return case.model_copy(update={"images": images, "label": label})


def _absolute(path: Path, folder: Path) -> Path:
    return Path(os.path.normpath(folder / path.expanduser()))


def _case_values(case: Case, folder: Path) -> dict[str, Any]:
    values = case.model_dump(mode="json", exclude_defaults=True)
    values["images"] = [_relative(image, folder) for image in case.images]
    if case.label is not None:
        values["label"] = _relative(case.label, folder)
    return values


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path.absolute(), folder)).as_posix()
    except ValueError:  # another drive on Windows
        return path.absolute().as_posix()


def _check_case(case: Case, dataset: Dataset, file: Path) -> None:
    if case.missing:
        _check_missing(case, dataset, file)
    elif len(case.images) not in {1, len(dataset.channels)}:
        raise UsageError(
            f"images: {len(case.images)} files for the {len(dataset.channels)} channels {list(dataset.channels)}",
            code="E-CHANNELS",
            file=file,
            remedy="List one file per channel in the order of 'channels', or one file that holds them all.",
        )
    for name in case.labelled or ():
        if name not in dataset.labels:
            raise UsageError(
                f"labelled: unknown label {name!r}",
                code="E-LABEL-NAME",
                file=file,
                remedy=f"In 'labels' of the dataset: {suggest(name, list(dataset.labels))}",
            )
    for name in case.values:
        if name not in dataset.targets:
            raise UsageError(
                f"values: unknown target {name!r}",
                code="E-TARGET-NAME",
                file=file,
                remedy=f"In 'targets' of the dataset, with its unit: {suggest(name, list(dataset.targets))}",
            )
    for head, name in case.classes.items():
        if head not in dataset.heads:
            raise UsageError(
                f"classes: unknown classification head {head!r}",
                code="E-CLASS-NAME",
                file=file,
                remedy=f"In 'heads' of the dataset: {suggest(head, list(dataset.heads))}",
            )
        if name not in dataset.heads[head]:
            raise UsageError(
                f"classes: head {head!r} has no class {name!r}",
                code="E-CLASS-NAME",
                file=file,
                remedy=f"In 'heads' of the dataset: {suggest(name, list(dataset.heads[head]))}",
            )


def _check_missing(case: Case, dataset: Dataset, file: Path) -> None:
    channels, missing = len(dataset.channels), set(case.missing)
    if missing <= set(range(channels)) and case.images and len(case.images) + len(missing) == channels:
        return
    raise UsageError(
        f"images: {len(case.images)} files and {len(missing)} missing ones for the {channels} channels "
        f"{list(dataset.channels)}",
        code="E-CHANNELS",
        file=file,
        remedy="List one file or null per channel in the order of 'channels', at least one of them a file.",
    )
