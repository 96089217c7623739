"""The network: a 3D U-Net, and beside it the classification head of `diagnosis.py`, which reads its encoder.

Shape legend: B batch, C input channels, K segmentation outputs (background first), F features, (I, J, K) voxels of the
network grid, RAS order.

Sources: Ronneberger et al., MICCAI 2015 (U-Net); Isensee et al., Nature Methods 2021 and MICCAI 2024 (instance norm,
leaky ReLU, residual encoder).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.instance_norm import instance_norm
from medseg.nn.ranks import are_several, gathered
from medseg.nn.segmenter import Segmenter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from medseg.core.geometry import Shape
    from medseg.core.plan import NetworkPlan
    from medseg.nn.diagnosis import ClassificationHead


class Normalised(nn.Module):
    """Convolution and instance norm; without bias, which the norm would take away again."""

    def __init__(self, in_features: int, out_features: int, *, kernel: Shape, stride: Shape = (1, 1, 1)) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.convolution = nn.Conv3d(in_features, out_features, kernel, stride, padding, bias=False)
        self.norm = nn.InstanceNorm3d(out_features, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return instance_norm(self.norm, _convolve(self.convolution, x))


class Convolution(Normalised):
    """Convolution, instance norm, leaky ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return instance_norm(self.norm, _convolve(self.convolution, x), slope=0.01)


class MeanPool(nn.AvgPool3d):
    """Means over blocks; of torch's own the gradient is refused on a GPU where every run must give the same result."""

    def __init__(self, stride: Shape) -> None:
        super().__init__(stride, stride, ceil_mode=True)
        self._stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if not torch.are_deterministic_algorithms_enabled():
            return super().forward(x)
        for axis, step in enumerate(self._stride, start=2):
            x = _block_means(x, axis, step)
        return x


class ResidualBlock(nn.Module):
    """Two convolutions around a shortcut; the shortcut pools and projects where the shape changes."""

    def __init__(self, in_features: int, out_features: int, *, kernel: Shape, stride: Shape = (1, 1, 1)) -> None:
        super().__init__()
        self.first = Convolution(in_features, out_features, kernel=kernel, stride=stride)
        self.second = Normalised(out_features, out_features, kernel=kernel)
        self.pool = MeanPool(stride) if max(stride) > 1 else nn.Identity()
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
        self.deep_supervision, self.factors = plan.deep_supervision, plan.factors

    @property
    def decodes(self) -> bool:
        return len(self.decoder) > 0

    @property
    def first(self) -> Normalised:
        """What reads the image."""
        return next(module for module in self.modules() if isinstance(module, Normalised))

    def encode(self, image: Tensor) -> list[Tensor]:
        skips = [self.stem(image)]
        for stage in self.encoder:
            skips.append(stage(skips[-1]))
        return skips[1:]

    def decode(self, skips: Sequence[Tensor], *, all_scales: bool) -> list[Tensor]:
        x, logits = skips[-1], []
        for index, head in enumerate(self.to_logits):
            x = self._up(x, skips, index)
            if index == len(self.decoder) - 1 or (all_scales and self.deep_supervision):
                logits.append(head(x))
        return logits[::-1]

    def finest(self, skips: Sequence[Tensor]) -> Tensor:
        """(B, F, I, J, K) what the last of `to_logits`, a 1x1x1 convolution, reads."""
        x = skips[-1]
        for index in range(len(self.decoder)):
            x = self._up(x, skips, index)
        return x

    def _up(self, x: Tensor, skips: Sequence[Tensor], index: int) -> Tensor:
        """One stage of the decoder, counted from the coarsest."""
        skip = skips[-2 - index]
        x = self.upsample[index](x)[..., : skip.shape[2], : skip.shape[3], : skip.shape[4]]
        return self.decoder[index](torch.cat([x, skip], dim=1))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Output:
    """Logits of one pass.

    Attributes:
        logits: (B, K, ...) fine to coarse; empty for a classification-only network.
        classes: (views, number of classes) by head, (views, 1) by target; of all processes while training.
        described: (views, width) that the head read; None without one.
    """

    logits: list[Tensor]
    classes: Mapping[str, Tensor]
    described: Tensor | None = None


class Network(nn.Module):
    """One network, two answers.

    Args:
        unet: The segmentation network.
        head: The classification head, or None.
        head_scales: Encoder stages that the head reads.
        region_groups: For each pooled region the network indices whose probabilities are added up.
        shape_channels: Input channels of two values, measured as outlines.
        head_teaches: Whether the head's gradient flows into the encoder.
    """

    def __init__(
        self,
        unet: Segmenter,
        head: ClassificationHead | None,
        *,
        head_scales: Sequence[int] = (),
        region_groups: Sequence[Sequence[int]] = (),
        shape_channels: Sequence[int] = (),
        head_teaches: bool = True,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.head = head
        self.head_scales = tuple(head_scales)
        self.region_groups = tuple(tuple(group) for group in region_groups)
        self.shape_channels = tuple(shape_channels)
        self.head_teaches = head_teaches

    def forward(
        self,
        image: Tensor,
        *,
        views: Tensor | None = None,
        reference: Tensor | None = None,
        clinical: Tensor | None = None,
        inside: Tensor | None = None,
        bags: Tensor | None = None,
    ) -> Output:
        """(B, C, I, J, K) to logits; all supervised scales while training.

        Args:
            image: Patches.
            views: Indices of the samples to classify; None classifies none.
            reference: (B, I, J, K) network indices under which to pool instead of the network's own answer; a sample
                that starts with a negative index pools under its own.
            clinical: (B, width) where the plan has such columns.
            inside: (B, I, J, K) bool, voxels of the case: nothing is pooled of what the network sees beyond it.
            bags: (B,) a number of each sample; a head that gathers reads all samples of a view's number together, which
                are of one case. Each by itself when None.
        """
        skips = self.unet.encode(image)
        logits = self.unet.decode(skips, all_scales=self.training) if self.unet.decodes else []
        if views is None or self.head is None or not (len(views) or (self.training and are_several())):
            return Output(logits, {})
        probabilities = None
        if logits:
            probabilities = torch.softmax(logits[0][views].detach().float(), dim=1)
            if reference is not None:
                shown = reference[views]
                truth = torch.stack([shown == index for index in range(probabilities.shape[1])], dim=1).float()
                probabilities = torch.where((shown[:, :1, :1, :1] < 0)[:, None], probabilities, truth)
            if inside is not None:
                probabilities = probabilities * inside[views][:, None]
        known = None if clinical is None else clinical[views]
        # While training all of several processes learn from everybody's views.
        if self.head.gathers:
            known = gathered(known) if self.training and known is not None else known
            described = self.head.beside(self._gathered(image, skips, views, bags), known)
        else:
            pooled, _ = self._pooled(image[views], [skip[views] for skip in skips], probabilities)
            described = self.head.beside(pooled, known)
            described = gathered(described) if self.training else described
        return Output(logits, self.head(described), described) if len(described) else Output(logits, {})

    def classify(
        self, views: Iterable[Tensor], probabilities: Tensor | None, clinical: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Class logits, and standardised targets, of cases whose segmentation is already known; as `describe`."""
        return {} if self.head is None else self.head(self.describe(views, probabilities, clinical))

    def describe(self, views: Iterable[Tensor], probabilities: Tensor | None, clinical: Tensor | None = None) -> Tensor:
        """What the head reads of cases whose segmentation is already known: (B, width).

        Args:
            views: (B, C, I, J, K) each, of the same B cases: all tiles for a head that gathers, else one.
            probabilities: (B, K, I, J, K) of the one.
            clinical: (B, width) where the plan has such columns.
        """
        if self.head is None:
            message = "a network without a classification head describes nothing"
            raise ValueError(message)
        told = [self._pooled(view, self.unet.encode(view), probabilities) for view in views]
        described, masses = (torch.cat(parts) for parts in zip(*told, strict=True))
        if self.head.gathers:
            together = torch.eye(len(described) // len(told), dtype=torch.bool, device=described.device)
            described = self.head.gather(described, masses, together.repeat(1, len(told)))
        return self.head.beside(described, clinical)

    def _gathered(self, image: Tensor, skips: Sequence[Tensor], views: Tensor, bags: Tensor | None) -> Tensor:
        """(views, width) of each view and its bag; while training of all processes, among which a bag may be parted."""
        if self.head is None:
            message = "a network without a classification head describes nothing"
            raise ValueError(message)
        bags = torch.arange(len(image), device=image.device) if bags is None else bags
        is_view = torch.zeros_like(bags).index_fill(0, views, 1)
        parts = [*self._pooled(image, skips, None), bags, is_view]
        pooled, masses, bags, is_view = map(gathered, parts) if self.training else parts
        return self.head.gather(pooled, masses, bags[is_view > 0][:, None] == bags)

    def _pooled(self, image: Tensor, skips: Sequence[Tensor], probabilities: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.head is None:
            message = "a network without a classification head describes nothing"
            raise ValueError(message)
        regions = outlines = None
        if probabilities is not None and self.region_groups:
            regions = torch.stack([probabilities[:, list(group)].sum(1) for group in self.region_groups], dim=1)
        if self.shape_channels:
            outlines = ((image[:, list(self.shape_channels)] + 1) / 2).clamp(0, 1)
        scales = [skips[scale] if self.head_teaches else skips[scale].detach() for scale in self.head_scales]
        # Instance norm hides how bright and how large things are: the image itself is pooled beside its features.
        return self.head.pool([image, *scales], regions, outlines)


def _block_means(x: Tensor, axis: int, step: int) -> Tensor:
    """Of each `step` voxels along one axis; at its end of those that are left."""
    count, rest = divmod(x.shape[axis], step)
    whole, end = torch.split(x, [count * step, rest], dim=axis)
    means = whole.reshape(*x.shape[:axis], count, step, *x.shape[axis + 1 :]).mean(axis + 1)
    return torch.cat([means, end.mean(axis, keepdim=True)], dim=axis) if rest else means


def _convolve(convolution: nn.Conv3d, x: Tensor) -> Tensor:
    """The convolution, in fp32 on a CPU where autocast would be wrong.

    torch 2.13's CPU kernel leaves the bf16 weight gradient of a 3D convolution uninitialised when the input is at most
    two voxels deep (one at stride 2); such maps are tiny, so fp32 costs nothing.
    """
    if x.device.type == "cpu" and min(x.shape[2:]) <= 2 and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return convolution(x.float())  # type: ignore[no-any-return]
    return convolution(x)  # type: ignore[no-any-return]
