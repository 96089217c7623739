"""Bring two examinations of one patient over each other: rigid, then affine, then, when asked for, a B-spline.

Mattes mutual information on a pyramid of resolutions (SimpleITK), sampled inside the body from a fixed seed with one
thread: the same images give the same answer. SimpleITK computes in whatever axes it is given: it is handed RAS+ grids,
so that its answers are in RAS+ too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.core.errors import GeometryError
from medseg.core.followup import AlignmentQuality, RegistrationQuality
from medseg.ops.alignment import Alignment, Displacement
from medseg.ops.alignment_quality import WORKING_MM, Reduced, agreement, fault, reduce

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813

    from medseg.core.geometry import Affine
    from medseg.core.volume import Volume

_SEED = 2009
_NUM_BINS = 40
_NUM_SAMPLES = 60_000
_NUM_SPLINE_SAMPLES = 15_000  # each sample costs a spline twenty times as much
_CONTROL_MM = 40.0
_FIELD_MM = 8.0
_NOTHING_MM = 1.0


@dataclass(frozen=True, eq=False)
class Registration:
    """An alignment and how good it is."""

    alignment: Alignment
    quality: RegistrationQuality


def register(fixed: Volume, moving: Volume, *, deformable: bool = False) -> Registration:
    """Find where each point of `fixed` lies in `moving`.

    Args:
        fixed: The baseline; its first channel is used.
        moving: A later examination, in any position and on any grid.
        deformable: Go on with a B-spline, 40 mm between its control points.

    Returns:
        The last stage that was plausible; its quality names those that were given up.

    Raises:
        GeometryError: `E-REGISTRATION` when not even a rigid alignment is plausible.
    """
    first, second = reduce(fixed), reduce(moving)
    before = agreement(Alignment.identity(), first, second)
    rigid = _rigid(first, second)
    after = agreement(rigid, first, second)
    if after.mutual_information < before.mutual_information and _shift_mm(rigid, first) < _NOTHING_MM:
        # They lay on each other already: a tiny shift only blurs what agreed voxel by voxel.
        rigid, after = Alignment.identity(), before
    problem = fault(rigid, after, before)
    if problem:
        raise GeometryError(
            f"could not be laid over the baseline: {problem}",
            code="E-REGISTRATION",
            file=moving.source,
            remedy="Check that both show the same part of the same patient. --allow-unregistered compares them in the "
            "scanner's coordinates instead, and says so.",
        )
    stage, chosen, refused = "rigid", rigid, []
    for name, find in (("affine", _affine), *((("deformable", _deformable),) if deformable else ())):
        found = find(first, second, chosen)
        reached = agreement(found, first, second)
        problem = fault(found, reached, after)
        if problem:
            refused.append(f"{name}: {problem}")
        else:
            stage, chosen, after = name, found, reached
    return Registration(chosen, _quality(chosen, stage, before, after, tuple(refused)))


def unregistered(fixed: Volume, moving: Volume, *, stage: Literal["none", "same grid"] = "none") -> Registration:
    """The scanner's own coordinates as they are, with the same numbers of quality."""
    found = agreement(Alignment.identity(), reduce(fixed), reduce(moving))
    return Registration(Alignment.identity(), _quality(Alignment.identity(), stage, found, found))


def _quality(
    alignment: Alignment,
    stage: str,
    before: AlignmentQuality,
    after: AlignmentQuality,
    refused: tuple[str, ...] = (),
) -> RegistrationQuality:
    return RegistrationQuality.model_validate(
        {
            "stage": stage,
            "matrix": tuple(tuple(row) for row in alignment.matrix.tolist()),
            "rotation_degrees": alignment.rotation_degrees,
            "determinant": float(np.linalg.det(alignment.matrix[:3, :3])),
            "before": before,
            "after": after,
            "refused": refused,
        }
    )


def _rigid(fixed: Reduced, moving: Reduced) -> Alignment:
    """From the best of three starts: as scanned, the bodies' centres together, the grids' centres together."""
    import SimpleITK as sitk  # noqa: N813

    centres = [grid.geometry.corners_mm().mean(axis=0) for grid in (fixed, moving)]
    shifts = [np.zeros(3), moving.centre_mm - fixed.centre_mm, centres[1] - centres[0]]

    def promise(shift: NDArray[np.float64]) -> float:
        found = agreement(Alignment(_shifted(shift)), fixed, moving)
        return found.mutual_information * found.body_dice

    transform = sitk.Euler3DTransform()
    transform.SetCenter(fixed.centre_mm.tolist())
    transform.SetTranslation(max(shifts, key=promise).tolist())
    _optimise(fixed, moving, transform, levels=(4, 2, 1))
    return Alignment(_matrix_of(transform))


def _affine(fixed: Reduced, moving: Reduced, start: Alignment) -> Alignment:
    import SimpleITK as sitk  # noqa: N813

    centre, linear = fixed.centre_mm, start.matrix[:3, :3]
    transform = sitk.AffineTransform(3)
    transform.SetCenter(centre.tolist())
    transform.SetMatrix(linear.ravel().tolist())
    transform.SetTranslation((start.matrix[:3, 3] + linear @ centre - centre).tolist())
    _optimise(fixed, moving, transform, levels=(2, 1))
    return Alignment(_matrix_of(transform))


def _deformable(fixed: Reduced, moving: Reduced, start: Alignment) -> Alignment:
    """A B-spline before the affine map, kept as shifts on a grid of 8 mm."""
    import SimpleITK as sitk  # noqa: N813

    lengths_mm = np.asarray(fixed.geometry.shape) * fixed.geometry.spacing_mm
    mesh = [max(1, round(float(length) / _CONTROL_MM)) for length in lengths_mm]
    spline = sitk.BSplineTransformInitializer(_image(fixed, fixed.array), mesh, 3)
    linear = sitk.AffineTransform(3)
    linear.SetMatrix(start.matrix[:3, :3].ravel().tolist())
    linear.SetTranslation(start.matrix[:3, 3].tolist())
    _optimise(fixed, moving, spline, levels=(2, 1), after=linear)
    i, j, k = (max(2, round(float(length) / _FIELD_MM)) for length in lengths_mm)
    grid = fixed.geometry.resized((i, j, k))
    field = sitk.TransformToDisplacementField(
        spline,
        sitk.sitkVectorFloat64,
        grid.shape,
        grid.affine[:3, 3].tolist(),
        grid.spacing_mm,
        grid.direction.ravel().tolist(),
    )
    shifts_mm = sitk.GetArrayFromImage(field).transpose(3, 2, 1, 0)
    return Alignment(start.matrix, Displacement(np.ascontiguousarray(shifts_mm, dtype=np.float32), grid))


def _optimise(
    fixed: Reduced,
    moving: Reduced,
    transform: sitk.Transform,
    *,
    levels: tuple[int, ...],
    after: sitk.Transform | None = None,
) -> None:
    """Change `transform` in place until mutual information no longer grows.

    Args:
        fixed: Baseline.
        moving: Later examination.
        transform: From the fixed to the moving one, to begin with.
        levels: Shrink factors, coarse to fine.
        after: A map that follows `transform` and stays as it is; `transform` is then a B-spline.
    """
    import SimpleITK as sitk  # noqa: N813

    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=_NUM_BINS)
    method.SetMetricFixedMask(_image(fixed, ndimage.binary_dilation(fixed.body, iterations=2).astype(np.uint8)))
    method.SetMetricSamplingStrategy(method.REGULAR)
    samples = _NUM_SAMPLES if after is None else _NUM_SPLINE_SAMPLES
    method.SetMetricSamplingPercentage(min(1.0, samples / fixed.array.size), _SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel(list(levels))
    method.SetSmoothingSigmasPerLevel([WORKING_MM * (level - 1) / 2 for level in levels])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    if after is None:
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=4.0,
            minStep=1e-3,
            numberOfIterations=250,
            relaxationFactor=0.85,
            gradientMagnitudeTolerance=1e-9,
        )
        method.SetOptimizerScalesFromPhysicalShift()
    else:
        method.SetMovingInitialTransform(after)
        method.SetOptimizerAsLBFGSB(numberOfIterations=20, maximumNumberOfFunctionEvaluations=25)
    method.SetInitialTransform(transform, inPlace=True)
    # Sums over threads depend on their order; the metric asks for the global number, not for the method's.
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        method.Execute(_image(fixed, fixed.array), _image(moving, moving.array))
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def _shift_mm(alignment: Alignment, fixed: Reduced) -> float:
    """How far the point of the body that moves most is moved."""
    points = fixed.body_points()
    return float(np.linalg.norm(alignment.to_moving(points) - points, axis=1).max())


def _image(place: Reduced, array: NDArray[Any]) -> sitk.Image:
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing(place.geometry.spacing_mm)
    image.SetOrigin(place.geometry.affine[:3, 3].tolist())
    image.SetDirection(place.geometry.direction.ravel().tolist())
    return image


def _matrix_of(transform: Any) -> Affine:
    """(4, 4) of a map that SimpleITK writes as linear (x - centre) + centre + translation."""
    linear, centre = np.array(transform.GetMatrix()).reshape(3, 3), np.array(transform.GetCenter())
    matrix = _shifted(np.array(transform.GetTranslation()) + centre - linear @ centre)
    matrix[:3, :3] = linear
    return matrix


def _shifted(shift_mm: NDArray[np.float64]) -> Affine:
    matrix = np.eye(4)
    matrix[:3, 3] = shift_mm
    return matrix
