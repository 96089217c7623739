"""Folders of images, with or without masks: files, sub-folders or one folder per case."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg.core.case import Case, case_id
from medseg.core.errors import InputError
from medseg.data.channels import channels_of
from medseg.data.importers.draft import (
    Draft,
    case_key,
    images_in,
    is_auxiliary_name,
    is_image,
    is_mask_name,
    modality_of,
    not_understood,
    stem_of,
)
from medseg.data.importers.sidecar import add_table
from medseg.data.importers.table import read_table

_HINT = (
    "Name them, as in --images images --masks labels, or --images '*/flair.nii.gz,*/t1.nii.gz' --masks '*/seg.nii.gz'."
)
_MOST_IMAGES_PER_CASE = 8

Images = dict[str, tuple[Path, ...]]
Masks = dict[str, Path]


def read_folder(folder: Path, *, images: str | None = None, masks: str | None = None) -> Draft:
    """Pair images with masks by name.

    Args:
        folder: Holds files (`a_image.nrrd`, `a_label.nrrd`), two sub-folders with equal file names (`ct/`, `oar/`),
            or one sub-folder per case (`PET_image.nii.gz`, `PET_mask.nii.gz`).
        images: Sub-folder or glob pattern; several, one per channel, with commas between.
        masks: Sub-folder or glob pattern.

    Raises:
        InputError: `E-IMPORT`, with what was found and which argument settles it.
    """
    if images or masks:
        cases = _by_pattern(folder, images, masks)
    else:
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        subfolders = [path for path in inside if not is_image(path) and images_in(path)]
        if is_image(folder):
            cases = [Case(id=case_id(folder.name), images=(folder,))]
        elif files := images_in(folder):
            cases = _flat(folder, files)
        elif not subfolders:
            return _table_or_nothing(folder)
        elif any(is_mask_name(path.name) for path in subfolders) or all(modality_of(p.name) for p in subfolders):
            cases = _side_by_side(folder, subfolders)
        elif len(subfolders) == 1:
            cases = _flat(folder, images_in(subfolders[0]))
        else:
            cases = _folder_per_case(folder, subfolders)
    return add_table(Draft(name=folder.name, cases=tuple(cases)), folder)


def _table_or_nothing(folder: Path) -> Draft:
    tables = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in {".csv", ".tsv"}]
    if len(tables) == 1:
        return read_table(tables[0])
    raise not_understood(folder, "no images in it or in its sub-folders", "Give a folder of images, or a CSV.")


def _flat(folder: Path, files: Sequence[Path]) -> list[Case]:
    masks: Masks = {}
    images: dict[str, list[Path]] = defaultdict(list)
    roles: dict[str, list[str]] = defaultdict(list)
    has_masks = any(is_mask_name(stem_of(path)) for path in files)
    split = channels_of([stem_of(path) for path in files if not is_mask_name(stem_of(path))])
    for path in files:
        base, number = split.get(stem_of(path), (stem_of(path), 0))
        key = case_key(base) if has_masks else base
        if not is_mask_name(base):
            images[key].append(path)
            roles[key].append(f"{base.replace(key, '')} {number}")
        elif key in masks:
            raise _several_masks(folder, [masks[key].name, path.name])
        else:
            masks[key] = path
    _require_equal(folder, roles)
    return _pair(folder, {key: tuple(paths) for key, paths in images.items()}, masks)


def _side_by_side(folder: Path, subfolders: Sequence[Path]) -> list[Case]:
    mask_folders = [path for path in subfolders if is_mask_name(path.name)]
    if len(mask_folders) > 1:
        raise _several_masks(folder, [path.name for path in mask_folders])
    masks = _masks(folder, images_in(mask_folders[0])) if mask_folders else {}
    per_channel = [
        _by_stem(images_in(path))
        for path in subfolders
        if path not in mask_folders and not is_auxiliary_name(path.name)
    ]
    if masks:
        known = {key for name in masks for key in (name, case_key(name))}
        per_channel = [part for part in per_channel if any(key in known or case_key(key) in known for key in part)]
    if not per_channel:
        raise not_understood(folder, f"no images match the masks in {mask_folders[0].name}", _HINT)
    return _pair(folder, _as_channels(folder, per_channel), masks)


def _folder_per_case(folder: Path, subfolders: Sequence[Path]) -> list[Case]:
    found = {path.name: {_role(file, path): file for file in images_in(path)} for path in subfolders}
    found = {name: {r: f for r, f in files.items() if not is_auxiliary_name(r)} for name, files in found.items()}
    if max(len(files) for files in found.values()) > _MOST_IMAGES_PER_CASE:
        raise not_understood(
            folder, f"the sub-folders {sorted(found)[:3]} hold many images and none is named as masks", _HINT
        )
    mask_roles = sorted({role for files in found.values() for role in files if is_mask_name(role)})
    masks: Masks = {}
    images: Images = {}
    roles = {}
    for name, files in found.items():
        mine = [role for role in files if role in mask_roles]
        if len(mine) > 1:
            raise _several_masks(folder / name, mine)
        if mine:
            masks[name] = files[mine[0]]
        rest = sorted(role for role in files if role not in mask_roles)
        images[name] = tuple(files[role] for role in rest)
        roles[name] = rest if len(rest) > 1 else ["image"] * len(rest)
    _require_equal(folder, roles)
    if not masks and len(next(iter(images.values()))) > 1:
        names = sorted(next(iter(roles.values())))
        raise not_understood(folder, f"which of {names} are images and which the mask cannot be told", _HINT)
    return _pair(folder, images, masks)


def _role(file: Path, folder: Path) -> str:
    return stem_of(file).replace(folder.name, "").strip("_-. ") or "image"


def _by_pattern(folder: Path, images: str | None, masks: str | None) -> list[Case]:
    if not images:
        raise not_understood(folder, "masks were named but no images", _HINT)
    per_channel = [_find(folder, spec.strip()) for spec in images.split(",")]
    found = _find(folder, masks) if masks else {}
    for paths in found.values():
        if len(paths) > 1:
            raise _several_masks(folder, [path.name for path in paths])
    return _pair(folder, _as_channels(folder, per_channel), {key: paths[0] for key, paths in found.items()})


def _find(folder: Path, spec: str) -> Images:
    """Images by key: the file name in a sub-folder, else what the pattern's first wildcard stands for."""
    if (folder / spec).is_dir():
        return _by_stem(images_in(folder / spec))
    for pattern in (spec, f"*/{spec}"):
        regex = re.compile(re.escape(pattern).replace(r"\*", "([^/]*)").replace(r"\?", "([^/])"))
        stems: dict[Path, str] = {}
        for path in sorted(folder.glob(pattern)):
            match = regex.fullmatch(path.relative_to(folder).as_posix())
            if match and match.groups() and is_image(path):
                stems[path] = stem_of(Path(match[1]))
        if stems:
            return _grouped(stems)
    raise not_understood(folder, f"no image matches {spec!r}", "Give a sub-folder's name or a pattern with a *.")


def _by_stem(files: Sequence[Path]) -> Images:
    return _grouped({path: stem_of(path) for path in files})


def _grouped(stems: Mapping[Path, str]) -> Images:
    """Files of one case together, in order of their channel numbers when the names have them."""
    split = channels_of(sorted(set(stems.values())))
    found: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for path, stem in stems.items():
        case, number = split[stem]
        found[case].append((number, path))
    return {key: tuple(path for _, path in sorted(paths)) for key, paths in found.items()}


def _masks(folder: Path, files: Sequence[Path]) -> Masks:
    found: Masks = {}
    for path in files:
        if stem_of(path) in found:
            raise _several_masks(folder, [found[stem_of(path)].name, path.name])
        found[stem_of(path)] = path
    return found


def _as_channels(folder: Path, per_channel: Sequence[Images]) -> Images:
    keys = sorted({key for part in per_channel for key in part})
    for key in keys:
        if not all(key in part for part in per_channel):
            raise not_understood(folder, f"case {key} lacks one of the {len(per_channel)} channels", _HINT)
    return {key: tuple(path for part in per_channel for path in part[key]) for key in keys}


def _require_equal(folder: Path, roles: dict[str, list[str]]) -> None:
    first_key, first = next(iter(roles.items()), ("", []))
    for key, other in roles.items():
        if sorted(other) != sorted(first):
            raise not_understood(
                folder,
                f"case {key} has the images {[r.strip() for r in other]}, case {first_key} has "
                f"{[r.strip() for r in first]}",
                _HINT,
            )


def _pair(folder: Path, images: Images, masks: Masks) -> list[Case]:
    if masks and not images.keys() & masks.keys():
        images = {case_key(key): paths for key, paths in images.items()}
        masks = {case_key(key): path for key, path in masks.items()}
    lonely = [masks[key].name for key in sorted(masks.keys() - images.keys())]
    if lonely:
        raise not_understood(folder, f"{len(lonely)} masks have no image, as {lonely[0]}", _HINT)
    return [Case(id=case_id(key), images=images[key], label=masks.get(key)) for key in sorted(images)]


def _several_masks(folder: Path, names: Sequence[str]) -> InputError:
    return not_understood(folder, f"several masks for one case: {', '.join(names)}", _HINT)
