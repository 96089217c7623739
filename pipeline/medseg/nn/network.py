"""The network: a 3D U-Net and a classification head that reads its encoder, on one page.

Shape legend: B batch, C input channels, K segmentation outputs (background first), F features, R pooled regions,
(I, J, K) voxels of the network grid, RAS order.

Sources: Ronneberger et al., MICCAI 2015 (U-Net); Isensee et al., Nature Methods 2021 and MICCAI 2024 (instance norm,
leaky ReLU, residual encoder); pooling under the predicted foreground follows the joint segmentation-classification
literature (docs/training.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.ranks import gathered
from medseg.nn.segmenter import Segmenter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medseg.core.geometry import Shape
    from medseg.core.plan import ClassificationPlan, NetworkPlan


class Normalised(nn.Module):
    """Convolution and instance norm; without bias, which the norm would take away again."""

    def __init__(self, in_features: int, out_features: int, *, kernel: Shape, stride: Shape = (1, 1, 1)) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.convolution = nn.Conv3d(in_features, out_features, kernel, stride, padding, bias=False)
        self.norm = nn.InstanceNorm3d(out_features, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(_convolve(self.convolution, x))  # type: ignore[no-any-return]


class Convolution(Normalised):
    """Convolution, instance norm, leaky ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(super().forward(x), 0.01, inplace=True)


class ResidualBlock(nn.Module):
    """Two convolutions around a shortcut; the shortcut pools and projects where the shape changes."""

    def __init__(self, in_features: int, out_features: int, *, kernel: Shape, stride: Shape = (1, 1, 1)) -> None:
        super().__init__()
        self.first = Convolution(in_features, out_features, kernel=kernel, stride=stride)
        self.second = Normalised(out_features, out_features, kernel=kernel)
        self.pool = nn.AvgPool3d(stride, stride, ceil_mode=True) if max(stride) > 1 else nn.Identity()
        changes = in_features != out_features
        self.project = Normalised(in_features, out_features, kernel=(1, 1, 1)) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(self.second(self.first(x)) + self.project(self.pool(x)), 0.01, inplace=True)


class UNet(Segmenter):
    """Encoder and decoder with skip connections.

    Args:
        in_channels: C.
        out_channels: K; 0 builds the encoder alone.
        plan: Stages from fine to coarse.
    """

    def __init__(self, in_channels: int, out_channels: int, plan: NetworkPlan) -> None:
        super().__init__()
        is_residual = plan.kind == "residual"
        self.stem = Convolution(in_channels, plan.features[0], kernel=plan.kernels[0]) if is_residual else nn.Identity()
        self.encoder = nn.ModuleList()
        block = ResidualBlock if is_residual else Convolution
        features = plan.features[0] if is_residual else in_channels
        stages = zip(plan.features, plan.strides, plan.kernels, plan.blocks, strict=True)
        for out_features, stride, kernel, num_blocks in stages:
            blocks = [block(features, out_features, kernel=kernel, stride=stride)]
            blocks += [block(out_features, out_features, kernel=kernel) for _ in range(num_blocks - 1)]
            self.encoder.append(nn.Sequential(*blocks))
            features = out_features
        self.upsample, self.decoder, self.to_logits = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(plan.features) - 1 if out_channels else 0)):
            stride, fine, coarse = plan.strides[level + 1], plan.features[level], plan.features[level + 1]
            self.upsample.append(nn.ConvTranspose3d(coarse, fine, stride, stride))
            inputs = [2 * fine, *[fine] * (plan.decoder_blocks - 1)]
            self.decoder.append(nn.Sequential(*(Convolution(n, fine, kernel=plan.kernels[level]) for n in inputs)))
            supervised = plan.deep_supervision or level == 0
            self.to_logits.append(nn.Conv3d(fine, out_channels, 1) if supervised else nn.Identity())
        self.deep_supervision = plan.deep_supervision

    @property
    def decodes(self) -> bool:
        return len(self.decoder) > 0

    def encode(self, image: Tensor) -> list[Tensor]:
        skips = [self.stem(image)]
        for stage in self.encoder:
            skips.append(stage(skips[-1]))
        return skips[1:]

    def decode(self, skips: Sequence[Tensor], *, all_scales: bool) -> list[Tensor]:
        x, logits = skips[-1], []
        for index, (upsample, block, head) in enumerate(zip(self.upsample, self.decoder, self.to_logits, strict=True)):
            skip = skips[-2 - index]
            x = upsample(x)[..., : skip.shape[2], : skip.shape[3], : skip.shape[4]]
            x = block(torch.cat([x, skip], dim=1))
            if index == len(self.decoder) - 1 or (all_scales and self.deep_supervision):
                logits.append(head(x))
        return logits[::-1]


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
        if self.training and len(x):
            with torch.no_grad():
                self.count += 1
                share = torch.clamp(1 / self.count, min=0.01)
                self.mean.lerp_(x.mean(0), share)
                self.variance.lerp_((x - self.mean).square().mean(0), share)
        return ((x - self.mean) / (self.variance + 1e-6).sqrt()).clamp(-5, 5)


class ClassificationHead(nn.Module):
    """Encoder features pooled under regions, to class logits of each head.

    Mean and maximum of each scale under each region's probability (dilated by one voxel of that scale, so that the rim
    of a lesion counts), and each region's size and raggedness, then one hidden layer per head. Without regions the
    whole view is pooled.
    """

    def __init__(self, features: Sequence[int], num_regions: int, plan: ClassificationPlan) -> None:
        super().__init__()
        width = 2 * sum(features) * max(num_regions, 1) + 2 * num_regions
        self.standardise = Standardise(width)
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Dropout(plan.dropout),
                    nn.Linear(width, 64),
                    nn.LeakyReLU(0.01),
                    nn.Dropout(plan.dropout),
                    nn.Linear(64, len(classes)),
                )
                for name, classes in plan.heads.items()
            }
        )

    def forward(self, features: Sequence[Tensor], regions: Tensor | None) -> dict[str, Tensor]:
        """Features: (B, F, ...) per scale; regions: (B, R, I, J, K) in [0, 1] or None.

        Returns:
            (B, classes) by head; in training B is that of all processes together.
        """
        pooled = torch.cat([_pool(scale.float(), regions) for scale in features], dim=1)
        if regions is not None:
            pooled = torch.cat([pooled, _shape(regions.float())], dim=1)
        pooled = self.standardise(gathered(pooled) if self.training else pooled)
        return {name: head(pooled) for name, head in self.heads.items()}


@dataclass(frozen=True)
class Output:
    """Logits of one pass.

    Attributes:
        logits: (B, K, ...) fine to coarse; empty for a classification-only network.
        classes: (views, number of classes) by head.
    """

    logits: list[Tensor]
    classes: Mapping[str, Tensor]


class Network(nn.Module):
    """One network, two answers.

    Args:
        unet: The segmentation network.
        head: The classification head, or None.
        head_scales: Encoder stages that the head reads.
        region_groups: For each pooled region the network indices whose probabilities are added up.
    """

    def __init__(
        self,
        unet: Segmenter,
        head: ClassificationHead | None,
        *,
        head_scales: Sequence[int] = (),
        region_groups: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__()
        self.unet = unet
        self.head = head
        self.head_scales = tuple(head_scales)
        self.region_groups = tuple(tuple(group) for group in region_groups)

    def forward(self, image: Tensor, *, views: Tensor | None = None, reference: Tensor | None = None) -> Output:
        """(B, C, I, J, K) to logits; all supervised scales while training.

        Args:
            image: Patches.
            views: Indices of the samples to classify; None classifies none.
            reference: (B, I, J, K) network indices under which to pool instead of the network's own answer; a sample
                that starts with a negative index pools under its own.
        """
        skips = self.unet.encode(image)
        logits = self.unet.decode(skips, all_scales=self.training) if self.unet.decodes else []
        if views is None or not len(views):
            return Output(logits, {})
        probabilities = None
        if logits:
            probabilities = torch.softmax(logits[0][views].detach().float(), dim=1)
            if reference is not None:
                shown = reference[views]
                truth = torch.stack([shown == index for index in range(probabilities.shape[1])], dim=1).float()
                probabilities = torch.where((shown[:, :1, :1, :1] < 0)[:, None], probabilities, truth)
        return Output(logits, self._classify(image[views], [skip[views] for skip in skips], probabilities))

    def classify(self, image: Tensor, probabilities: Tensor | None) -> dict[str, Tensor]:
        """Class logits of views whose segmentation (B, K, I, J, K) is already known."""
        return self._classify(image, self.unet.encode(image), probabilities)

    def _classify(self, image: Tensor, skips: Sequence[Tensor], probabilities: Tensor | None) -> dict[str, Tensor]:
        if self.head is None:
            return {}
        regions = None
        if probabilities is not None and self.region_groups:
            regions = torch.stack([probabilities[:, list(group)].sum(1) for group in self.region_groups], dim=1)
        # Instance norm hides how bright and how large things are: the image itself is pooled beside its features.
        return self.head([image, *(skips[scale] for scale in self.head_scales)], regions)  # type: ignore[no-any-return]


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


def _shrink(regions: Tensor, features: Tensor) -> Tensor:
    """(B, R, I, J, K) averaged to the voxels of the features; as plain pooling where it can be, which ONNX has."""
    fine, (i, j, k) = regions.shape[2:], features.shape[2:]
    if any(many % few for many, few in zip(fine, (i, j, k), strict=True)):
        return functional.adaptive_avg_pool3d(regions, (i, j, k))
    return functional.avg_pool3d(regions, (fine[0] // i, fine[1] // j, fine[2] // k))


def _shape(regions: Tensor) -> Tensor:
    """(B, R, I, J, K) to (B, 2 R): log of each region's size, and its rim in relation to that size."""
    size = regions.sum((2, 3, 4))
    smooth = functional.avg_pool3d(functional.pad(regions, (1,) * 6), 3, 1)
    rim = (regions * (1 - smooth)).sum((2, 3, 4))
    return torch.cat([torch.log1p(size) / 10, rim / (size + 1) ** (2 / 3)], dim=1)


def _convolve(convolution: nn.Conv3d, x: Tensor) -> Tensor:
    """The convolution, in fp32 on a CPU where autocast would be wrong.

    torch 2.13's CPU kernel leaves the bf16 weight gradient of a 3D convolution uninitialised when the input is at most
    two voxels deep (one at stride 2); such maps are tiny, so fp32 costs nothing.
    """
    if x.device.type == "cpu" and min(x.shape[2:]) <= 2 and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return convolution(x.float())  # type: ignore[no-any-return]
    return convolution(x)  # type: ignore[no-any-return]
