"""An nnU-Net v2 results folder as data: its JSON checked key by key, its checkpoints read without running code.

The layout is TRAINER__PLANS__CONFIGURATION/ with plans.json, dataset.json and fold_K/checkpoint_final.pth (a zip of
tensors and a pickle). The pickle is read by torch's restricted unpickler, which builds tensors and plain values only.
"""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medseg.core.errors import ModelError
from medseg.io.files import require_file, require_path

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

PLANS, DATASET = "plans.json", "dataset.json"
_FOLD = re.compile(r"fold_(\d+|all)")
_EXPORT_AGAIN = "Export or train the model again with nnU-Net 2.2 or later."
# Besides tensors and plain values: the numpy numbers in nnU-Net's log of its losses.
_NUMBERS = [
    np.dtype,
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    *{type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_)},
]

Parsed = TypeVar("Parsed", bound=BaseModel)


class _Foreign(BaseModel):
    """Keys that matter here; nnU-Net's files hold others, which are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Architecture(_Foreign):
    network_class_name: str
    arch_kwargs: dict[str, Any]


class Configuration(_Foreign):
    """One entry of `configurations`, what it inherits included."""

    patch_size: tuple[int, ...]
    batch_size: int
    spacing: tuple[float, ...]
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    resampling_fn_data: str
    resampling_fn_data_kwargs: dict[str, Any]
    resampling_fn_probabilities: str
    resampling_fn_probabilities_kwargs: dict[str, Any]
    architecture: Architecture
    previous_stage: str | None = None


class Plans(_Foreign):
    dataset_name: str
    plans_name: str
    image_reader_writer: str
    transpose_forward: tuple[int, ...]
    configurations: dict[str, dict[str, Any]]
    foreground_intensity_properties_per_channel: dict[str, dict[str, float]] = Field(default_factory=dict)


class DatasetJson(_Foreign):
    channel_names: dict[str, str]
    labels: dict[str, int | tuple[int, ...]]
    regions_class_order: tuple[int, ...] | None = None
    num_training: int = Field(default=0, alias="numTraining")
    licence: str = ""


class _InitArgs(_Foreign):
    configuration: str


class _Checkpoint(_Foreign):
    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True)

    network_weights: dict[str, torch.Tensor]
    init_args: _InitArgs
    trainer_name: str
    inference_allowed_mirroring_axes: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class NnunetModel:
    """What an nnU-Net results folder says.

    Attributes:
        folds: Names of the folds that were read.
        weights: State dict of each fold, in nnU-Net's own names.
        mirror_axes: In nnU-Net's axes.
        dice: Mean foreground Dice of each fold's own validation, where nnU-Net left it.
    """

    folder: Path
    plans: Plans
    dataset: DatasetJson
    configuration: Configuration
    trainer: str
    folds: tuple[str, ...]
    weights: tuple[dict[str, Tensor], ...]
    mirror_axes: tuple[int, ...]
    dice: dict[str, float]


def read_nnunet(
    folder: Path,
    *,
    folds: tuple[str, ...] = (),
    checkpoint: Literal["checkpoint_final.pth", "checkpoint_best.pth"] = "checkpoint_final.pth",
) -> NnunetModel:
    """Read a trained model.

    Args:
        folder: TRAINER__PLANS__CONFIGURATION.
        folds: Which folds, such as 0 or all; every fold that has the checkpoint when empty.
        checkpoint: Which file of each fold.

    Raises:
        ModelError: `E-NNUNET` when the folder is not such a model or a key is missing; `E-PICKLE` when a checkpoint
            wants to run code; `E-WEIGHTS` when it is damaged.
    """
    require_path(folder)
    plans, dataset = _read(folder / PLANS, Plans), _read(folder / DATASET, DatasetJson)
    names = folds or tuple(
        sorted(
            match[1]
            for path in folder.glob(f"fold_*/{checkpoint}")
            if (match := _FOLD.fullmatch(path.parent.name)) is not None
        )
    )
    if not names:
        message = f"no fold holds {checkpoint}"
        raise ModelError(message, code="E-NNUNET", file=folder, remedy="Name the folder that holds fold_0, fold_1 ...")
    members = [_read_checkpoint(folder / f"fold_{name}" / checkpoint) for name in names]
    first = members[0]
    return NnunetModel(
        folder,
        plans,
        dataset,
        _configuration(plans, first.init_args.configuration, folder / PLANS),
        first.trainer_name,
        names,
        tuple(member.network_weights for member in members),
        first.inference_allowed_mirroring_axes or (),
        {name: score for name in names if (score := _validation_dice(folder / f"fold_{name}")) is not None},
    )


def _configuration(plans: Plans, name: str, file: Path) -> Configuration:
    values: dict[str, Any] = {}
    parent: str | None = name
    seen: set[str] = set()
    while parent is not None:
        if parent not in plans.configurations or parent in seen:
            known = ", ".join(plans.configurations)
            message = f"configuration {parent!r} is not defined; the file has {known}"
            raise ModelError(message, code="E-NNUNET", file=file, remedy=_EXPORT_AGAIN)
        seen.add(parent)
        entry = plans.configurations[parent]
        values = {**entry, **values}
        parent = entry.get("inherits_from")
    return _parse(values, Configuration, file, f"configuration {name!r}")


def _read(path: Path, model: type[Parsed]) -> Parsed:
    if not path.is_file():
        message = f"not an nnU-Net results folder: it has no {path.name}"
        remedy = "Name the folder TRAINER__PLANS__CONFIGURATION that holds plans.json, dataset.json and fold_0."
        raise ModelError(message, code="E-NNUNET", file=path.parent, remedy=remedy)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        message = f"not valid JSON: {error}"
        raise ModelError(message, code="E-NNUNET", file=path, remedy="Copy the file again.") from error
    return _parse(values, model, path, "the file")


def _parse(values: Any, model: type[Parsed], file: Path, what: str) -> Parsed:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors()[:4])
        message = f"{what} is not what nnU-Net v2 writes ({faults})"
        raise ModelError(message, code="E-NNUNET", file=file, remedy=_EXPORT_AGAIN) from None


def _read_checkpoint(path: Path) -> _Checkpoint:
    file = require_file(path)
    _refuse_packed(file)
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise _damaged(file, str(error).splitlines()[0]) from error
        message = f"it wants to run {found[1]} while it is loaded"
        raise ModelError(
            message, code="E-PICKLE", file=file, remedy="Do not use this file; ask its author for the weights alone."
        ) from None
    return _parse(content, _Checkpoint, file, "the checkpoint")


def _refuse_packed(file: Path) -> None:
    """Tensors are stored unpacked: a packed member could be a bomb."""
    try:
        with zipfile.ZipFile(file) as archive:
            packed = [member for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
    except (zipfile.BadZipFile, OSError) as error:
        raise _damaged(file, str(error)) from error
    if packed:
        raise _damaged(file, f"{packed[0].filename} is packed, which torch never does")


def _damaged(file: Path, found: str) -> ModelError:
    message = f"not a whole checkpoint ({found})"
    return ModelError(message, code="E-WEIGHTS", file=file, remedy="Copy the checkpoint again from its source.")


def _validation_dice(fold: Path) -> float | None:
    path = fold / "validation" / "summary.json"
    if not path.is_file():
        return None
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["foreground_mean"]["Dice"])
    except (ValueError, KeyError, TypeError):
        return None
