"""A model as a MONAI Bundle: a folder that MONAI alone runs, with its own transforms and inferer.

configs/metadata.json   what it is, what goes in and what comes out
configs/inference.json  preprocessing, inferer, postprocessing
models/model.ts         the network as TorchScript: no pickled code
docs/README.md, LICENSE
"""

from __future__ import annotations

import json
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from medseg.core.errors import ModelError
from medseg.io.files import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from medseg.core.plan import Normalisation, Plan
    from medseg.io.bundle import BundleManifest

MODEL, METADATA, INFERENCE = "models/model.ts", "configs/metadata.json", "configs/inference.json"
DIFFERENCES = (
    "the image is resampled to exactly the spacing; medseg keeps the extent, so that its voxels may differ by a share",
    "the answer is brought back with a cubic spline, in medseg linearly",
    "windows start at steps from one end; medseg spreads them evenly",
    "a per-image mean over nonzero voxels leaves out holes inside the body, which medseg counts",
)
_SPLINE, _LINEAR = 3, "bilinear"

_README = """# {name}

Segmentation of {labels} from {channels}. Research use only: not a medical device.

    python -m monai.bundle run --bundle_root . --config_file configs/inference.json --dataset_dir FOLDER_OF_NIFTI

or from Python:

    from monai.bundle import ConfigParser
    parser = ConfigParser()
    parser.read_config("configs/inference.json")
    parser["bundle_root"], parser["dataset_dir"], parser["output_dir"] = ".", "images", "masks"
    parser.get_parsed_content("run")

A case of several channels is given as a list of files in `datalist`: `[{{"image": ["ct.nii.gz", "pet.nii.gz"]}}]`.
The masks lie on the image's grid, with the values {values}.

Where this differs from `medseg infer`: {differences}.
How far the masks differ on one case is in `export.json`.
"""


def write_monai_bundle(folder: Path, manifest: BundleManifest, plan: Plan, *, overlap: float) -> None:
    """Write all but the network itself, which belongs at `models/model.ts`.

    Raises:
        ModelError: `E-EXPORT` when MONAI's transforms cannot express the plan.
    """
    write_text(folder / METADATA, json.dumps(_metadata(manifest, plan), indent=2) + "\n")
    write_text(folder / INFERENCE, json.dumps(_inference(plan, overlap), indent=2) + "\n")
    readme = _README.format(
        name=manifest.name,
        labels=", ".join(plan.labels),
        channels=", ".join(plan.channels),
        values=", ".join(f"{name} = {value}" for name, value in plan.labels.items()),
        differences="; ".join(DIFFERENCES),
    )
    write_text(folder / "docs" / "README.md", readme)
    licence = manifest.licence or "not stated"
    note = f"The weights were trained on the dataset {manifest.dataset}. Licence of its data: {licence}.\n"
    write_text(folder / "LICENSE", note)


def run_monai_bundle(folder: Path, images: Sequence[Path], out: Path) -> NDArray[Any]:
    """Run one case as MONAI does.

    Args:
        folder: Of the bundle.
        images: One file per channel.
        out: Where MONAI saves its mask.

    Returns:
        (I, J, K) mask on the grid of the images.
    """
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    with warnings.catch_warnings():
        # MONAI's and torch's remarks on their own older interfaces
        warnings.simplefilter("ignore")
        parser.read_config(str(folder / INFERENCE))
        parser.read_meta(str(folder / METADATA))
        parser["bundle_root"], parser["output_dir"] = str(folder), str(out)
        parser["datalist"] = [{"image": [str(path) for path in images]}]
        parser["device"] = "$torch.device('cpu')"
        [answer] = parser.get_parsed_content("run")
    return np.asarray(answer["pred"][0].numpy()).astype(np.uint16)


def _inference(plan: Plan, overlap: float) -> dict[str, Any]:
    return {
        "imports": ["$import glob", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/input'",
        "output_dir": "$@bundle_root + '/output'",
        "datalist": "$[{'image': path} for path in sorted(glob.glob(@dataset_dir + '/*.nii*'))]",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": f"$torch.jit.load(@bundle_root + '/{MODEL}', map_location=@device)",
        "network": "$@network_def.eval()",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(plan)},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(plan.patch_size),
            # the network was traced for one window at a time
            "sw_batch_size": 1,
            "overlap": overlap,
            "mode": "gaussian",
            "sigma_scale": 0.125,
        },
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing(plan)},
        "run": "$[@postprocessing({**case, 'pred': @inferer(case['image'][None].to(@device), @network)[0].cpu()}) "
        "for case in @dataset]",
    }


def _preprocessing(plan: Plan) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [_step("LoadImaged", "image", image_only=True, ensure_channel_first=True)]
    if plan.orientation != "stored":
        names = [["L", "R"], ["P", "A"], ["I", "S"]]
        steps.append(_step("Orientationd", "image", axcodes=plan.orientation, labels=names))
    if plan.crop == "nonzero":
        chosen = {"source_key": "image", "select_fn": "$lambda x: x != 0", "margin": 0, "allow_smaller": True}
        steps.append(_step("CropForegroundd", "image", **chosen))
    return [*steps, *_intensity(plan.normalisation), *_spacing(plan)]


def _intensity(rules: Sequence[Normalisation]) -> list[dict[str, Any]]:
    if any(rule.correct_bias_field or rule.equalise for rule in rules):
        raise ModelError(
            "its plan corrects the bias field or equalises, for which MONAI has no transform",
            code="E-EXPORT",
            remedy="Use --format onnx, openvino or torch-export, and prepare the image as export.json says.",
        )
    if len(rules) == 1:
        return _channel("image", rules[0])
    keys = [f"image_{index}" for index in range(len(rules))]
    postfixes = [str(index) for index in range(len(rules))]
    split = _step("SplitDimd", "image", dim=0, keepdim=True, output_postfixes=postfixes)
    single = [step for key, rule in zip(keys, rules, strict=True) for step in _channel(key, rule)]
    join = {"_target_": "ConcatItemsd", "keys": keys, "name": "image", "dim": 0}
    # MONAI takes what is left under `image_...` for the image's metadata
    return [split, *single, join, {"_target_": "DeleteItemsd", "keys": keys}]


def _channel(key: str, rule: Normalisation) -> list[dict[str, Any]]:
    steps = [
        _step("ThresholdIntensityd", key, threshold=bound, above=above, cval=bound)
        for bound, above in ((rule.lower, True), (rule.upper, False))
        if bound is not None
    ]
    if rule.scheme == "fixed":
        return [*steps, _step("NormalizeIntensityd", key, subtrahend=rule.mean, divisor=rule.std)]
    if rule.scheme == "range":
        return [*steps, _step("ScaleIntensityd", key, minv=0.0, maxv=1.0)]
    return [*steps, _step("NormalizeIntensityd", key, nonzero=rule.nonzero)]


def _spacing(plan: Plan) -> list[dict[str, Any]]:
    """A pass per kind of interpolation; a spacing of -1 leaves an axis as it is."""
    keep = {"scale_extent": True, "padding_mode": "border", "dtype": "float32"}
    axis = plan.coarse_axis
    if axis is None:
        return [_step("Spacingd", "image", pixdim=list(plan.spacing_mm), mode=_SPLINE, **keep)]
    fine = [-1.0 if index == axis else step for index, step in enumerate(plan.spacing_mm)]
    coarse = [step if index == axis else -1.0 for index, step in enumerate(plan.spacing_mm)]
    return [
        _step("Spacingd", "image", pixdim=fine, mode=_SPLINE, **keep),
        _step("Spacingd", "image", pixdim=coarse, mode=_LINEAR, **keep),
    ]


def _postprocessing(plan: Plan) -> list[dict[str, Any]]:
    back = {"transform": "@preprocessing", "orig_keys": "image", "nearest_interp": False, "to_tensor": True}
    steps = [_step("Invertd", "pred", **back)]
    order = [*plan.paint_order] or list(range(1, plan.num_outputs))
    if plan.regions:
        # later regions are painted over earlier ones: the highest position among those that are present wins
        painted = "$lambda x: (x * torch.arange(1, len(x) + 1).reshape(-1, 1, 1, 1)).amax(0, keepdim=True)"
        steps += [_step("AsDiscreted", "pred", threshold=0.0), _step("Lambdad", "pred", func=painted)]
    else:
        steps.append(_step("AsDiscreted", "pred", argmax=True))
    values = [plan.labels[plan.label_names[index - 1]] for index in order]
    kind = "uint8" if max(values) < 256 else "uint16"
    table = {"orig_labels": list(range(1, len(values) + 1)), "target_labels": values}
    steps.append(_step("MapLabelValued", "pred", dtype=f"$__import__('numpy').{kind}", **table))
    save = {
        "output_dir": "@output_dir",
        "output_postfix": "seg",
        "separate_folder": False,
        "resample": False,
        "print_log": False,
    }
    steps.append(_step("SaveImaged", "pred", output_dtype=f"$__import__('numpy').{kind}", **save))
    return steps


def _step(name: str, key: str, **options: Any) -> dict[str, Any]:
    return {"_target_": name, "keys": key, **options}


def _metadata(manifest: BundleManifest, plan: Plan) -> dict[str, Any]:
    names = ("background", *plan.label_names) if not plan.regions else tuple(plan.regions)
    shape = {"spatial_shape": list(plan.patch_size), "dtype": "float32", "is_patch_data": True}
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": ", ".join(plan.channels),
        "num_channels": len(plan.channels),
        "value_range": [],
        "channel_def": {str(index): name for index, name in enumerate(plan.channels)},
        **shape,
    }
    pred = {
        "type": "image",
        "format": "segmentation",
        "num_channels": plan.num_outputs,
        "value_range": [],
        "channel_def": {str(index): name for index, name in enumerate(names)},
        **shape,
    }
    return {
        "version": "1.0.0",
        "changelog": {"1.0.0": "exported by medseg"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {name: version(name) for name in ("nibabel", "scipy")},
        "name": manifest.name,
        "task": f"segmentation of {', '.join(plan.labels)}",
        "description": f"Trained by medseg on {manifest.num_training_cases} cases of {manifest.dataset}. Research use.",
        "authors": "not stated",
        "copyright": f"licence of the training data: {manifest.licence or 'not stated'}",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }
