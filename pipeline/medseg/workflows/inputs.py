"""What `infer` is asked to look at: files, folders, DICOM series, manifests, turned into cases."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.core.case import case_id
from medseg.core.clinical import given
from medseg.core.errors import InputError, UsageError
from medseg.core.outputs import SUFFIX_OF, Format
from medseg.core.reading import AS_IT_IS, Reading
from medseg.data.channels import channels_of
from medseg.data.manifest import read_manifest
from medseg.io.files import require_path
from medseg.io.formats import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medseg.core.clinical import ClinicalColumn

NO_VOLUME = Path("none")


@dataclass(frozen=True)
class InferCase:
    """One case to predict: its id names the output files, and a manifest may say how its images are read.

    Attributes:
        missing: Channels for which there is no image.
        seed: What the UIDs of new DICOM objects are computed from; empty: they are random.
        attributes: What is known of the patient; of these only the columns that the model reads go further.
        channels: What a manifest calls its channels; empty where nothing says it.
    """

    id: str
    images: tuple[Path, ...]
    reading: Reading = AS_IT_IS
    seed: str = ""
    missing: tuple[int, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    channels: tuple[str, ...] = ()


def collect_inputs(
    volumes: Sequence[Path], folder: Path | None, *, num_channels: int, split: str | None = None
) -> tuple[InferCase, ...]:
    """Turn `--volume` and `--input` into cases.

    Args:
        volumes: One file or DICOM folder per case; for a model of C > 1 channels exactly C of them are one case, in
            which `none` stands for a channel without a file.
        folder: A folder of images, a folder with a DICOM series, or a manifest.
        num_channels: Of the model.
        split: Take only these cases of a manifest.

    Raises:
        InputError: E-NO-INPUT when nothing is found, or as `require_path`.
        UsageError: E-NAME-CLASH when two cases would write the same files; E-CHANNELS when `none` is not one of as
            many volumes as the model has channels.
    """
    cases: list[InferCase] = []
    missing = tuple(number for number, path in enumerate(volumes) if path == NO_VOLUME)
    present = [path for path in volumes if path != NO_VOLUME]
    for path in present:
        require_path(path)
    if missing:
        cases.append(_with_gaps(volumes, present, missing, num_channels))
    elif num_channels > 1 and len(volumes) == num_channels:
        cases += _by_channel(volumes, num_channels) or [InferCase(image_case(volumes[0]), tuple(volumes))]
    else:
        cases += [InferCase(image_case(path), (path,)) for path in volumes]
    if folder is not None:
        cases += _from_input(folder, split, num_channels)
    if not cases:
        raise UsageError(
            "nothing to look at", code="E-NO-INPUT", remedy="Give --volume FILE, or --input FOLDER or MANIFEST."
        )
    seen: dict[str, InferCase] = {}
    for case in cases:
        clash = seen.setdefault(case.id.lower(), case)
        if clash is not case:
            raise UsageError(
                f"{clash.images[0]} and {case.images[0]} would both be written as {case.id!r}",
                code="E-NAME-CLASH",
                remedy="Rename one, or run them into different --out folders.",
            )
    return tuple(cases)


def with_clinical(
    cases: Sequence[InferCase], columns: Sequence[ClinicalColumn], told: Mapping[str, str]
) -> tuple[InferCase, ...]:
    """The cases with what they say in the columns that a model reads, and nothing else of their attributes.

    Args:
        cases: From `collect_inputs`.
        columns: Of the model.
        told: By `--attribute`; goes before what a manifest says.

    Raises:
        UsageError: E-ATTRIBUTE when `told` is about several cases or names what the model does not read.
    """
    if told and len(cases) > 1:
        message = f"{', '.join(told)} given once for {len(cases)} cases"
        raise UsageError(message, code="E-ATTRIBUTE", remedy="Give one --volume, or a manifest with attributes.")
    names = [column.name for column in columns]
    if unknown := [name for name in told if name not in names]:
        message = f"this model does not read {', '.join(unknown)}"
        raise UsageError(message, code="E-ATTRIBUTE", remedy=f"It reads: {', '.join(names) or 'the image alone'}.")
    return tuple(replace(case, attributes=given({**case.attributes, **told}, columns)) for case in cases)


def _with_gaps(
    volumes: Sequence[Path], present: Sequence[Path], missing: tuple[int, ...], num_channels: int
) -> InferCase:
    """One case, some of whose channels have no file."""
    if len(volumes) != num_channels or not present:
        raise UsageError(
            f"--volume {NO_VOLUME} stands for a missing channel, but {len(volumes)} volumes with {len(present)} files "
            f"are no case of a model of {num_channels} channel(s)",
            code="E-CHANNELS",
            remedy=f"Give one --volume per channel of one case, {NO_VOLUME} in place of those that it lacks.",
        )
    return InferCase(image_case(present[0]), tuple(present), missing=missing)


def refuse_overwriting(cases: Sequence[InferCase], out: Path, formats: Sequence[Format]) -> None:
    """Refuse an output folder in which a case's mask or findings would take the place of an input.

    Raises:
        UsageError: E-WOULD-OVERWRITE.
    """
    inputs = {image.resolve() for case in cases for image in case.images}
    for case in cases:
        for suffix in (*(SUFFIX_OF[name] for name in formats), ".json"):
            target = out / f"{case.id}{suffix}"
            if target.resolve() in inputs:
                message = f"its result would be written over the input {target}"
                remedy = "Name another folder with --out."
                raise UsageError(message, code="E-WOULD-OVERWRITE", case=case.id, file=target, remedy=remedy)


def image_case(path: Path) -> str:
    """The case that an image file or folder is of: its name without the suffix."""
    name = path.name or path.resolve().name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
            break
    return case_id(name).rstrip("._-")


def _from_input(path: Path, split: str | None, num_channels: int) -> list[InferCase]:
    require_path(path)
    if path.is_file():
        if path.suffix.lower() != ".json":
            return [InferCase(image_case(path), (path,))]
        dataset = read_manifest(path)
        return [
            InferCase(
                case.id,
                case.images,
                dataset.reading_of(case),
                missing=case.missing,
                attributes=case.attributes,
                channels=dataset.channels,
            )
            for case in dataset.cases
            if split in {None, case.split}
        ]
    images = sorted(
        file
        for file in path.iterdir()
        if file.is_file() and file.name.lower().endswith(tuple(SUFFIXES)) and not file.name.startswith(".")
    )
    if not images:
        if any(file.is_file() for file in path.rglob("*")):
            return [InferCase(image_case(path), (path,))]  # a DICOM series: read_volume says if it is not
        raise InputError("this folder is empty", code="E-NO-INPUT", file=path, remedy="Name a folder of images.")
    return _by_channel(images, num_channels) or [InferCase(image_case(image), (image,)) for image in images]


def _by_channel(images: Sequence[Path], num_channels: int) -> list[InferCase]:
    """Cases whose files are numbered by channel; none when the numbers are no channels of the model."""
    by_stem = {image_case(image): image for image in images}
    groups: dict[str, list[tuple[int, Path]]] = {}
    for stem, (case, number) in channels_of(list(by_stem), num_channels=num_channels).items():
        groups.setdefault(case, []).append((number, by_stem[stem]))
    if len(by_stem) < len(images) or any(len(files) != num_channels for files in groups.values()):
        return []
    return [InferCase(case, tuple(image for _, image in sorted(files))) for case, files in groups.items()]
