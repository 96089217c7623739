"""The classification head: what is pooled from the encoder of a case, and how classes follow from it.

Shape legend: B batch, F features, R pooled regions, (I, J, K) voxels of the network grid, RAS order.

Pooling under the predicted foreground follows the joint segmentation-classification literature (docs/training.md).
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.core.clinical import encoded_width
from medseg.nn.margin import NUM_MEASURES, measure_margin
from medseg.nn.shape import grid_of, measure_shape, num_measures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medseg.core.plan import ClassificationPlan

_ATTENTION_WIDTH = 16
_LEAST_PROBABILITY = 1e-6


class Standardise(nn.Module):
    """Each feature to mean 0 and deviation 1 over the cases seen so far.

    Batch statistics would be those of two or three cases; these are running ones, used in training as at inference.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) to the same shape, within 5 deviations."""
        if self.training:
            with torch.no_grad():
                self.count += 1
                share = torch.clamp(1 / self.count, min=0.01)
                self.mean.lerp_(x.mean(0), share)
                self.variance.lerp_((x - self.mean).square().mean(0), share)
        return ((x - self.mean) / (self.variance + 1e-6).sqrt()).clamp(-5, 5)


class Attention(nn.Module):
    """A mean in which each place counts as much as a small network says (gated attention, Ilse et al., ICML 2018)."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.content = nn.Conv3d(num_features, _ATTENTION_WIDTH, 1)
        self.gate = nn.Conv3d(num_features, _ATTENTION_WIDTH, 1)
        self.to_weight = nn.Conv3d(_ATTENTION_WIDTH, 1, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, I, J, K) to (B, 2 F), weighted mean and maximum, and to (B, 1), the logarithm of the weights' sum."""
        weights = self.to_weight(torch.tanh(self.content(features)) * torch.sigmoid(self.gate(features)))
        weights = weights.float().flatten(2)
        mean = (features.flatten(2) * torch.softmax(weights, dim=2)).sum(2)
        return torch.cat([mean, features.amax((2, 3, 4))], dim=1), torch.logsumexp(weights, dim=2)


class OrdinalLayer(nn.Module):
    """One score, cut into steps: the cumulative-link model (McCullagh, J R Stat Soc B 1980).

    The probability of lying above step n is sigmoid(weight x + bias_n). The biases are used in falling order, so that
    no class's probability is negative whatever they were trained to.
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, in_features))
        self.bias = nn.Parameter(torch.empty(num_classes - 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small weights, and classes of about the same probability."""
        above = 1 - torch.arange(1, len(self.bias) + 1) / (len(self.bias) + 1)
        with torch.no_grad():
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as a linear layer's
            self.bias.copy_(torch.logit(above))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to log-probabilities (..., classes), which are logits as any."""
        score = functional.linear(x, self.weight)
        above = torch.sigmoid(score + self.bias.sort(descending=True).values)
        edges = functional.pad(functional.pad(above, (1, 0), value=1.0), (0, 1), value=0.0)
        return torch.log((edges[..., :-1] - edges[..., 1:]).clamp(min=_LEAST_PROBABILITY))


class ClassificationHead(nn.Module):
    """Encoder features pooled under regions, to class logits of each head and one number of each target.

    Mean and maximum of each scale under each region's probability (dilated by one voxel of that scale, so that the rim
    of a lesion counts), the image across its edge where the plan says so, the shape of each region and outline, then
    one linear layer per head: a plain one is what a few dozen cases can teach. Without regions the whole view is
    pooled, or where attention looks: in it, or in all views that are gathered of a case.

    Args:
        features: Of each pooled scale, the image first.
        num_regions: Under which they are pooled; 0 pools everything.
        plan: Heads, targets and dropout.
        num_outlines: Measured as regions are, but not pooled under.
    """

    def __init__(
        self, features: Sequence[int], num_regions: int, plan: ClassificationPlan, *, num_outlines: int = 0
    ) -> None:
        super().__init__()
        per_region = num_measures(directed=plan.directed, thickness=plan.thickness)
        measures = per_region * (num_regions + num_outlines)
        margins = NUM_MEASURES * num_regions * features[0] if plan.margin else 0
        blocks = (*(2 * number * max(num_regions, 1) for number in features), margins, measures)
        self.measure = partial(measure_shape, directed=plan.directed, thickness=plan.thickness)
        self.margin = plan.margin
        self.features = tuple(features)
        self.gathers = plan.gathers
        self.num_clinical = encoded_width(plan.clinical)
        self.blocks = tuple(size for size in (*blocks, self.num_clinical) if size)
        self.standardise = Standardise(sum(blocks))
        is_learnt = plan.pooling == "attention"
        self.attention = nn.ModuleList(Attention(number) for number in features[1:]) if is_learnt else None
        self.dropout = nn.Dropout(plan.dropout)
        self.heads = nn.ModuleDict(
            {
                name: (OrdinalLayer if name in plan.ordered else nn.Linear)(sum(self.blocks), len(classes))
                for name, classes in plan.heads.items()
            }
        )
        self.heads.update({name: nn.Linear(sum(self.blocks), 1) for name in plan.targets})
        if self.num_clinical:  # what no training case shows, such as that an age is missing, shall say nothing
            for layer in self.layers().values():
                with torch.no_grad():
                    layer.weight[:, -self.num_clinical :] = 0.0

    def layers(self) -> dict[str, Layer]:
        """The layer of each head."""
        return {name: layer for name, layer in self.heads.items() if isinstance(layer, (nn.Linear, OrdinalLayer))}

    def pool(
        self, features: Sequence[Tensor], regions: Tensor | None, outlines: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Views, each by itself.

        Args:
            features: (B, F, ...) per scale, the image first.
            regions: (B, R, I, J, K) in [0, 1].
            outlines: The same.

        Returns:
            (B, width), and (B, scales) the logarithm of the weight that attention gives a view at each scale after the
            image; (B, 0) without attention.
        """
        image, *scales = (scale.float() for scale in features)
        masses = [image.new_zeros((len(image), 0))]
        if self.attention is None:
            pooled = [_pool(scale, regions) for scale in (image, *scales)]
        else:
            attended = [attend(scale) for attend, scale in zip(self.attention, scales, strict=True)]
            pooled = [_pool(image, None), *(told for told, _ in attended)]
            masses += [mass for _, mass in attended]
        margins = []
        if self.margin and regions is not None:
            # An unsure edge adds to a rim more than a spicule does.
            regions = (regions > 0.5).float()
            margins = [measure_margin(image, regions)]
        measured = [part.float() for part in (regions, outlines) if part is not None]
        shapes = [self.measure(part) for part in measured]
        return torch.cat([*pooled, *margins, *shapes], dim=1), torch.cat(masses, dim=1)

    def gather(self, pooled: Tensor, masses: Tensor, together: Tensor) -> Tensor:
        """What views of a case say together: as if attention had weighed the places of all of them at once.

        Args:
            pooled: (N, width) of single views, from `pool`.
            masses: (N, scales).
            together: (B, N) bool, the views of each case.

        Returns:
            (B, width). The image's mean is that over the views.
        """
        even = together / together.sum(1, keepdim=True)
        learnt = torch.softmax(torch.where(together, masses.T[:, None], -torch.inf), dim=2)
        sizes = [size for number in self.features for size in (number, number)]
        *parts, rest = torch.split(pooled, [*sizes, pooled.shape[1] - sum(sizes)], dim=1)
        told = []
        for shares, mean, maximum in zip((even, *learnt), parts[::2], parts[1::2], strict=True):
            told += [_weighted(mean, shares), torch.where(together[..., None], maximum, -torch.inf).amax(1)]
        return torch.cat([*told, _weighted(rest, even)], dim=1)

    def beside(self, pooled: Tensor, clinical: Tensor | None) -> Tensor:
        """The pooled features (B, width) and the clinical columns (B, num_clinical), side by side."""
        if (0 if clinical is None else clinical.shape[1]) != self.num_clinical:
            message = f"the head reads {self.num_clinical} clinical numbers of each case"
            raise ValueError(message)
        return pooled if clinical is None or not self.num_clinical else torch.cat([pooled, clinical.to(pooled)], dim=1)

    def standard(self, described: Tensor) -> Tensor:
        """(B, width) in deviations; clinical columns are encoded so."""
        if not self.num_clinical:
            return self.standardise(described)  # type: ignore[no-any-return]
        pooled, clinical = described[:, : -self.num_clinical], described[:, -self.num_clinical :]
        return torch.cat([self.standardise(pooled), clinical], dim=1)

    def forward(self, described: Tensor) -> dict[str, Tensor]:
        """(B, width) to (B, classes) by head, and to (B, 1) by target, standardised."""
        standard = self.dropout(self.standard(described))
        return {name: head(standard) for name, head in self.heads.items()}


Layer = nn.Linear | OrdinalLayer


def _pool(features: Tensor, regions: Tensor | None) -> Tensor:
    """(B, F, ...) and (B, R, I, J, K) to (B, 2 R F): mean and maximum of the features under each region."""
    if regions is None:
        return torch.cat([features.mean((2, 3, 4)), features.amax((2, 3, 4))], dim=1)
    weights = functional.max_pool3d(_shrink(regions.float(), features), 3, 1, 1).flatten(2)
    flat = features.flatten(2)
    mean = torch.einsum("bfn,brn->brf", flat, weights) / (weights.sum(2).unsqueeze(2) + 1e-3)
    maximum = torch.stack(
        [(flat * weights[:, region : region + 1]).amax(2) for region in range(weights.shape[1])], dim=1
    )
    return torch.cat([mean, maximum], dim=1).flatten(1)


def _weighted(values: Tensor, shares: Tensor) -> Tensor:
    """(N, F) and (B, N) to (B, F), in full precision also where products of matrices are reduced."""
    return (shares[..., None] * values).sum(1)


def _shrink(regions: Tensor, features: Tensor) -> Tensor:
    """(B, R, I, J, K) averaged to the voxels of the features; as plain pooling where it can be, which ONNX has."""
    fine, (i, j, k) = grid_of(regions), grid_of(features)
    if any(many % few for many, few in zip(fine, (i, j, k), strict=True)):
        return functional.adaptive_avg_pool3d(regions, (i, j, k))
    return functional.avg_pool3d(regions, (fine[0] // i, fine[1] // j, fine[2] // k))
