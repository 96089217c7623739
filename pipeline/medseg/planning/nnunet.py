"""An nnU-Net plan in this package's words: the same grid, intensities, network and way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from medseg.core.errors import ModelError
from medseg.core.plan import Decision, NetworkPlan, Normalisation, Plan

if TYPE_CHECKING:
    from medseg.core.geometry import Shape, Vector
    from medseg.io.nnunet import Architecture, Configuration, NnunetModel

_KINDS: dict[str, Literal["plain", "residual"]] = {"PlainConvUNet": "plain", "ResidualEncoderUNet": "residual"}
_READERS: dict[str, Literal["RAS", "stored"]] = {
    "SimpleITKIO": "stored",
    "NibabelIO": "stored",
    "NibabelIOWithReorient": "RAS",
}
_RESAMPLER = "resample_data_or_seg_to_shape"
_LAYERS = {"conv_op": "Conv3d", "norm_op": "InstanceNorm3d", "nonlin": "LeakyReLU"}


def axes_of(model: NnunetModel) -> tuple[int, int, int]:
    """Which of nnU-Net's network axes is our axis 0, 1, 2: theirs are z, y, x, then transposed."""
    forward = model.plans.transpose_forward
    _require(sorted(forward) == [0, 1, 2], model, f"transpose_forward {forward}", "a 3D model")
    return (forward.index(2), forward.index(1), forward.index(0))


def plan_of(model: NnunetModel) -> Plan:
    """Translate the plan.

    Raises:
        ModelError: `E-NNUNET`, naming what this package does not have (2D, cascade, another network or resampling).
    """
    theirs, dataset = model.configuration, model.dataset
    _require(len(theirs.patch_size) == 3, model, f"a patch of {len(theirs.patch_size)} axes", "a 3D configuration")
    _require(theirs.previous_stage is None, model, "a cascade", "3d_fullres or 3d_lowres")
    reader = model.plans.image_reader_writer
    _require(reader in _READERS, model, f"reader {reader}", f"one of {', '.join(_READERS)}")
    axes = axes_of(model)
    labels, regions = _labels(model)
    channels = tuple(dataset.channel_names[key] for key in sorted(dataset.channel_names, key=int))
    return Plan(
        dataset=model.plans.dataset_name,
        channels=channels,
        labels=labels,
        spacing_mm=_vector(theirs.spacing, axes),
        orientation=_READERS[reader],
        crop="nonzero",
        normalisation=tuple(_normalisation(model, index) for index in range(len(channels))),
        coarse_axis=None,
        nearest_slices=_takes_nearest_slices(model),
        within_range=True,
        patch_size=_shape(theirs.patch_size, axes),
        batch_size=theirs.batch_size,
        mirror_axes=tuple(sorted(axes.index(axis) for axis in model.mirror_axes)),
        regions=regions,
        blending="nnunet",
        network=_network(model, theirs.architecture, axes),
        decisions=(
            Decision(
                what="all",
                value=f"{model.trainer}, {model.plans.plans_name}, folds {', '.join(model.folds)}",
                reason="taken from an nnU-Net model, so that it answers as it was trained",
            ),
            Decision(
                what="windows of nothing",
                value="run",
                reason="its training cases are not at hand to show that no labelled voxel could be lost",
            ),
        ),
    )


def _labels(model: NnunetModel) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Mask values by name, and the regions that unite them when the model predicts regions."""
    named = {name: value for name, value in model.dataset.labels.items() if name not in {"background", "ignore"}}
    if not any(isinstance(value, tuple) and len(value) > 1 for value in named.values()):
        return {name: value if isinstance(value, int) else value[0] for name, value in named.items()}, {}
    order = model.dataset.regions_class_order or ()
    _require(len(order) == len(named), model, f"regions_class_order {order}", f"{len(named)} values")
    regions = {name: (value,) if isinstance(value, int) else value for name, value in named.items()}
    labels = {
        name if len(values) == 1 else f"{name}_rest": painted
        for (name, values), painted in zip(regions.items(), order, strict=True)
    }
    return labels, regions


def _normalisation(model: NnunetModel, channel: int) -> Normalisation:
    scheme = model.configuration.normalization_schemes[channel]
    if scheme == "ZScoreNormalization":
        return Normalisation(scheme="per_image", nonzero=model.configuration.use_mask_for_norm[channel])
    if scheme == "CTNormalization":
        known = model.plans.foreground_intensity_properties_per_channel.get(str(channel), {})
        keys = ("percentile_00_5", "percentile_99_5", "mean", "std")
        _require(set(keys) <= set(known), model, f"no intensities of channel {channel}", ", ".join(keys))
        lower, upper, mean, std = (known[key] for key in keys)
        return Normalisation(scheme="fixed", lower=lower, upper=upper, mean=mean, std=max(std, 1e-8))
    _require(
        scheme in {"NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization"},
        model,
        f"normalisation {scheme}",
        "one of nnU-Net's own",
    )
    if scheme == "RescaleTo01Normalization":
        return Normalisation(scheme="range")
    return Normalisation(scheme="fixed", std=255.0 if scheme.startswith("RGB") else 1.0)


def _takes_nearest_slices(model: NnunetModel) -> bool:
    theirs: Configuration = model.configuration
    for name, options, order in (
        (theirs.resampling_fn_data, theirs.resampling_fn_data_kwargs, 3),
        (theirs.resampling_fn_probabilities, theirs.resampling_fn_probabilities_kwargs, 1),
    ):
        found = f"{name} of order {options.get('order')}, order_z {options.get('order_z')}"
        same = name == _RESAMPLER and options.get("order") == order and options.get("order_z") == 0
        _require(
            same and options.get("force_separate_z") is not True, model, found, f"{_RESAMPLER} of order {order}, 0"
        )
    return theirs.resampling_fn_data_kwargs.get("force_separate_z") is None


def _network(model: NnunetModel, architecture: Architecture, axes: tuple[int, int, int]) -> NetworkPlan:
    name = architecture.network_class_name.rpartition(".")[2]
    _require(name in _KINDS, model, f"network {name}", " or ".join(_KINDS))
    kind, given = _KINDS[name], architecture.arch_kwargs
    for key, layer in _LAYERS.items():
        found = str(given.get(key)).rpartition(".")[2]
        _require(found == layer, model, f"{key} {found}", layer)
    _require(not given.get("dropout_op"), model, f"dropout_op {given.get('dropout_op')}", "none")
    try:
        blocks = given["n_conv_per_stage" if kind == "plain" else "n_blocks_per_stage"]
        decoder = set(given["n_conv_per_stage_decoder"])
        _require(len(decoder) == 1, model, f"n_conv_per_stage_decoder {sorted(decoder)}", "one number")
        return NetworkPlan(
            kind=kind,
            features=tuple(given["features_per_stage"]),
            strides=tuple(_shape(stride, axes) for stride in given["strides"]),
            kernels=tuple(_shape(kernel, axes) for kernel in given["kernel_sizes"]),
            blocks=tuple(blocks),
            decoder_blocks=decoder.pop(),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _unlike(model, f"arch_kwargs that cannot be read ({error})", "nnU-Net's own") from error


def _shape(values: Any, axes: tuple[int, int, int]) -> Shape:
    i, j, k = (int(values[axis]) for axis in axes)
    return (i, j, k)


def _vector(values: tuple[float, ...], axes: tuple[int, int, int]) -> Vector:
    i, j, k = (values[axis] for axis in axes)
    return (i, j, k)


def _require(holds: bool, model: NnunetModel, found: str, expected: str) -> None:
    if not holds:
        raise _unlike(model, found, expected)


def _unlike(model: NnunetModel, found: str, expected: str) -> ModelError:
    return ModelError(
        f"the model has {found}; only {expected} can be taken over",
        code="E-NNUNET",
        file=model.folder,
        remedy="Run this model with nnU-Net itself.",
    )
