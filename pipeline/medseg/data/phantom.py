"""The embedded cohort: synthetic abdomens written as an ordinary dataset, for every command to work on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from medseg.core.case import Case, Dataset, Split
from medseg.core.document import Document
from medseg.core.errors import UsageError
from medseg.core.progress import Progress, silent
from medseg.data.manifest import read_json_object, write_manifest
from medseg.data.phantom_body import CLASS_NAMES, phantom_case
from medseg.io.files import sha256_of, write_text
from medseg.io.volumes import write_labels, write_volume

HEAD = "lesion_type"
MANIFEST_NAME = "manifest.json"

_RECIPE = 1  # raised whenever the voxels of a case change
_THREADS = 2


class _Index(Document):
    """What a finished cohort consists of."""

    schema_version: Literal[1] = 1
    recipe: int
    seed: int
    num_cases: int
    class_noise: float = 0.0
    sha256: dict[str, str]


def make_phantom(
    folder: Path | str, *, seed: int = 20, num_cases: int = 90, class_noise: float = 0.0, progress: Progress = silent
) -> Path:
    """Write the cohort into `folder`, or keep what is already there and whole.

    Args:
        folder: Receives `images/`, `labels/`, `manifest.json` and, last, `phantom.json` with the hashes.
        seed: The same seed gives the same voxels.
        num_cases: Two thirds train, the rest halves into val and test, always in pairs of both classes.
        class_noise: Share of the train and val cases of each class, rounded to whole cases, that the manifest gives
            the other class. Voxels stay, and test cases keep the true class.
        progress: Wraps the loop over cases.

    Returns:
        The manifest's path.

    Raises:
        UsageError: `E-PHANTOM`, fewer than two cases.
    """
    if num_cases < 2:
        raise UsageError(f"num_cases must be at least 2, got {num_cases}", code="E-PHANTOM")
    folder = Path(folder).absolute()
    manifest = folder / MANIFEST_NAME
    dataset = _mistaken(_dataset(folder, seed, num_cases), class_noise, seed=seed)
    known = _known(folder, _Index(recipe=_RECIPE, seed=seed, num_cases=num_cases, class_noise=class_noise, sha256={}))
    paths = [path.relative_to(folder).as_posix() for case in dataset.cases for path in _files(case)]
    if known.keys() >= {*paths, MANIFEST_NAME} and all(
        _is_whole(folder / name, known[name]) for name in (*paths, MANIFEST_NAME)
    ):
        return manifest
    with ThreadPoolExecutor(_THREADS) as pool:
        made = pool.map(lambda case: _make_case(case, seed, folder, known), dataset.cases)
        hashes = dict(
            pair for pairs in progress(made, "making the synthetic cohort", num_cases) for pair in pairs.items()
        )
    write_manifest(dataset, manifest)
    hashes[MANIFEST_NAME] = sha256_of(manifest)
    index = _Index(recipe=_RECIPE, seed=seed, num_cases=num_cases, class_noise=class_noise, sha256=hashes)
    write_text(folder / "phantom.json", index.to_json())
    return manifest


def _dataset(folder: Path, seed: int, num_cases: int) -> Dataset:
    return Dataset(
        name="phantom",
        description=f"synthetic CT-like abdomens made by medseg, seed {seed}",
        licence="CC0-1.0",
        channels=("CT",),
        labels={"organ": 1, "lesion": 2},
        heads={HEAD: CLASS_NAMES},
        cases=tuple(_describe_case(folder, index, num_cases) for index in range(num_cases)),
    )


def _describe_case(folder: Path, index: int, num_cases: int) -> Case:
    case_id = f"phantom_{index:04d}"
    return Case(
        id=case_id,
        images=(folder / "images" / f"{case_id}.nii.gz",),
        label=folder / "labels" / f"{case_id}.nii.gz",
        classes={HEAD: CLASS_NAMES[index % 2]},
        split=_split_of(index // 2, (num_cases + 1) // 2),
    )


def _split_of(pair: int, num_pairs: int) -> Split:
    """Test and val take a sixth of the pairs each, test rounded up, val at least one when there are three pairs."""
    num_test = (num_pairs + 3) // 6
    num_val = max(num_pairs // 6, 1 if num_pairs > 2 else 0)
    if pair >= num_pairs - num_test:
        return "test"
    return "val" if pair >= num_pairs - num_test - num_val else "train"


def _mistaken(dataset: Dataset, class_noise: float, *, seed: int) -> Dataset:
    """The dataset with a share of each class's cases, test cases apart, said to be of the other class."""
    random = np.random.default_rng([seed, 3])
    wrong: set[str] = set()
    for name in CLASS_NAMES:
        own = [case.id for case in dataset.cases if case.split != "test" and case.classes[HEAD] == name]
        wrong |= {own[int(place)] for place in random.permutation(len(own))[: round(class_noise * len(own))]}
    other = dict(zip(CLASS_NAMES, reversed(CLASS_NAMES), strict=True))
    cases = [
        case.model_copy(update={"classes": {HEAD: other[case.classes[HEAD]]}}) if case.id in wrong else case
        for case in dataset.cases
    ]
    return dataset.model_copy(update={"cases": tuple(cases)})


def _known(folder: Path, wanted: _Index) -> dict[str, str]:
    """Hashes of an earlier run of the same seed and recipe; the manifest's only when it says the same of the cases."""
    path = folder / "phantom.json"
    if not path.is_file():
        return {}
    index = _Index.parse(read_json_object(path), file=path)
    if (index.seed, index.recipe) != (wanted.seed, wanted.recipe):
        return {}
    said_alike = (index.num_cases, index.class_noise) == (wanted.num_cases, wanted.class_noise)
    return {name: value for name, value in index.sha256.items() if said_alike or name != MANIFEST_NAME}


def _files(case: Case) -> tuple[Path, ...]:
    return (*case.images, *(path for path in [case.label] if path is not None))


def _is_whole(path: Path, sha256: str | None) -> bool:
    return sha256 is not None and path.is_file() and sha256_of(path) == sha256


def _make_case(case: Case, seed: int, folder: Path, known: dict[str, str]) -> dict[str, str]:
    """Write one case unless it is there already; returns the hashes of its two files."""
    image_path, label_path = _files(case)
    names = [path.relative_to(folder).as_posix() for path in (image_path, label_path)]
    if not all(_is_whole(folder / name, known.get(name)) for name in names):
        image, labels, _ = phantom_case(seed, int(case.id.rpartition("_")[2]))
        write_volume(image, image_path)
        write_labels(labels, label_path)
    return {name: sha256_of(folder / name) for name in names}
