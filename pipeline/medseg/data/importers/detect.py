"""Which format lies at a path, and the door to all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medseg.core.case import Dataset
from medseg.core.errors import UsageError
from medseg.core.progress import Progress, silent
from medseg.core.reading import AS_IT_IS, Reading
from medseg.data.importers.complete import complete, with_targets
from medseg.data.importers.dicom_tree import read_dicom_tree
from medseg.data.importers.draft import (
    Draft,
    holds_dicom_alone,
    images_in,
    is_image,
    not_understood,
    require_files,
)
from medseg.data.importers.folders import read_folder
from medseg.data.importers.json_lists import read_json_list
from medseg.data.importers.medmnist import read_medmnist
from medseg.data.importers.table import read_table
from medseg.data.manifest import write_manifest
from medseg.io import archives
from medseg.io.files import require_path

_READERS: dict[str, Callable[[Path, Path], Draft]] = {
    ".json": lambda path, _: read_json_list(path),
    ".csv": lambda path, _: read_table(path),
    ".tsv": lambda path, _: read_table(path),
    ".npz": read_medmnist,
}


def import_dataset(  # noqa: PLR0913 - one argument for each question a layout may leave open
    path: Path | str,
    *,
    out: Path | str,
    name: str | None = None,
    channels: Sequence[str] = (),
    labels: Mapping[str, int] | None = None,
    classes: Sequence[str] = (),
    ordered: Sequence[str] = (),
    targets: Mapping[str, str] | None = None,
    absent_is_unlabelled: bool = False,
    images: str | None = None,
    masks: str | None = None,
    reading: Reading = AS_IT_IS,
    progress: Progress = silent,
) -> Dataset:
    """Make a manifest of a dataset laid out in another way.

    Understood: `dataset.json` of the Medical Segmentation Decathlon and of nnU-Net, a MONAI datalist, a CSV or TSV, a
    MedMNIST `.npz`, a folder of images with or without masks, a folder that holds one of the files, a tree of DICOM
    studies with their segmentations and structure sets, and a zip or tar of such a folder.

    Args:
        path: The file or folder.
        out: Manifest to write; a `.npz` also writes its volumes into `<out stem>_volumes` beside it, and an archive is
            unpacked into `<out stem>_files`.
        name: Of the dataset; by default what the source says, or the name of the file or folder.
        channels: Modality per channel; by default what the source says, or CT when voxels fall below -200, else MRI.
        labels: Name to mask value; by default what the source says, or `label_1`, `label_2` ... as found in the masks.
        classes: Class names of the one classification head, in order; sources that number classes count from 0.
        ordered: Heads whose classes are steps of one scale.
        targets: Columns or attributes that are numbers to be answered, to their unit.
        absent_is_unlabelled: A label without voxels in a case counts as not annotated there.
        images: Sub-folder or glob pattern of the images in a folder; several, one per channel, with commas between.
        masks: Sub-folder or glob pattern of the masks.
        reading: How the images are read where their files do not decide; the manifest keeps it.
        progress: Wraps the loop over masks, when they must be read.

    Returns:
        The dataset as written.

    Raises:
        InputError: `E-IMPORT`, the layout is not understood; `E-NOT-FOUND`, a file named in it is missing.
        UsageError: Arguments that do not fit what was found.
    """
    path, out = Path(path).absolute(), Path(out).absolute()
    require_path(path)
    draft = _read(path, out, images, masks, channels)
    require_files(draft.cases)
    if name:
        draft = replace(draft, name=name)
    dataset = complete(
        draft,
        channels=channels,
        labels=dict(labels or {}),
        classes=classes,
        absent_is_unlabelled=absent_is_unlabelled,
        reading=reading,
        progress=progress,
    )
    if targets:
        dataset = with_targets(dataset, targets)
    if ordered:
        dataset = Dataset.parse({**dataset.model_dump(), "ordered": tuple(ordered)})
    write_manifest(dataset, out)
    return dataset


def _read(path: Path, out: Path, images: str | None, masks: str | None, channels: Sequence[str]) -> Draft:
    if path.name.lower().endswith(archives.SUFFIXES):
        path = _unpacked(path, out)
    if not images and holds_dicom_alone(path) and (tree := _dicom_tree(path, channels, masks)):
        return tree
    if images or masks:
        if not path.is_dir():
            raise UsageError("images and masks are patterns inside a folder", code="E-IMPORT", file=path)
        return read_folder(path, images=images, masks=masks)
    source = _file_in(path) if path.is_dir() else path
    if source is None:
        return read_folder(path)
    reader = _READERS.get(source.suffix.lower())
    if reader is None:
        raise not_understood(
            source,
            f"no dataset format ends in {source.suffix or 'no suffix'!r}",
            "Give a dataset.json, a CSV, a .npz, or a folder of images and masks.",
        )
    return reader(source, out)


def _dicom_tree(path: Path, channels: Sequence[str], masks: str | None) -> Draft | None:
    """What the headers say of the folder, where its names do not say enough: one series each, in folders of its own."""
    draft = read_dicom_tree(path, channels=channels, masks=masks)
    speaking = is_image(path) or images_in(path)
    told = draft is not None and any(case.label or case.series for case in draft.cases)
    return draft if told or not speaking else None


def _unpacked(archive: Path, out: Path) -> Path:
    """The folder that the archive becomes; its one sub-folder when it holds nothing else."""
    folder = out.with_name(f"{out.stem}_files")
    archives.extract(archive, folder)
    inside = [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _file_in(folder: Path) -> Path | None:
    """The one file that describes a folder; None when its images speak for themselves."""
    described = folder / "dataset.json"
    if described.is_file():
        return described
    arrays = sorted(folder.glob("*.npz"))
    return arrays[0] if len(arrays) == 1 else None
