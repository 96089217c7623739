"""MONAI's networks, opened between encoder and decoder so that the classification head reads them like our own.

Each takes its sizes from the plan's network section. Norms are instance norms throughout: MONAI's choice of batch norm
(Attention U-Net) would see two patches at a time, and group norm in channels-last layout is wrong on a CPU.

Shape legend: B batch, C input channels, K segmentation outputs (0 builds the encoder alone), F features.

Sources: Hatamizadeh et al., BrainLes 2021 (Swin UNETR); Myronenko, BrainLes 2018 (SegResNet); Oktay et al., MIDL 2018
(Attention U-Net).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from monai.networks import nets
from torch import Tensor, nn

from medseg.nn.segmenter import Segmenter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medseg.core.geometry import Shape
    from medseg.core.plan import NetworkPlan

_THINNEST_BF16 = 2


class SwinUnetr(Segmenter):
    """A shifted-window transformer down, residual convolutions up; patches are multiples of 32 voxels."""

    def __init__(self, in_channels: int, out_channels: int, plan: NetworkPlan) -> None:
        super().__init__()
        self.net = nets.SwinUNETR(
            in_channels,
            max(out_channels, 1),
            feature_size=plan.features[0],
            depths=plan.blocks[2:],
            num_heads=tuple(3 * 2**stage for stage in range(4)),
        )
        self._factors = plan.factors
        if not out_channels:
            for name in ("decoder1", "decoder2", "decoder3", "decoder4", "decoder5", "out"):
                delattr(self.net, name)
            # only the two coarsest stages are read then
            for name in ("encoder1", "encoder2", "encoder3", "encoder4"):
                setattr(self.net, name, nn.Identity())

    @property
    def decodes(self) -> bool:
        return hasattr(self.net, "out")

    def encode(self, image: Tensor) -> list[Tensor]:
        with _precise(image, self._factors):
            half, quarter, eighth, sixteenth, last = self.net.swinViT(image, self.net.normalize)
            return [
                self.net.encoder1(image),
                self.net.encoder2(half),
                self.net.encoder3(quarter),
                self.net.encoder4(eighth),
                sixteenth,
                self.net.encoder10(last),
            ]

    def decode(self, skips: Sequence[Tensor], *, all_scales: bool) -> list[Tensor]:  # noqa: ARG002 - one scale
        net = self.net
        with _precise(skips[0], self._factors):
            x = skips[-1]
            ups = (net.decoder5, net.decoder4, net.decoder3, net.decoder2, net.decoder1)
            for up, skip in zip(ups, skips[-2::-1], strict=True):
                x = up(x, skip)
            return [net.out(x)]


class SegResNet(Segmenter):
    """Residual blocks down and up, upsampled by transposed convolutions, whose gradient is the same every time."""

    def __init__(self, in_channels: int, out_channels: int, plan: NetworkPlan) -> None:
        super().__init__()
        self.net = nets.SegResNet(
            init_filters=plan.features[0],
            in_channels=in_channels,
            out_channels=max(out_channels, 1),
            norm=("INSTANCE", {"affine": True}),
            blocks_down=plan.blocks,
            blocks_up=(plan.decoder_blocks,) * (len(plan.blocks) - 1),
            upsample_mode="deconv",
        )
        self._factors = plan.factors
        if not out_channels:
            for name in ("up_layers", "up_samples", "conv_final"):
                delattr(self.net, name)

    @property
    def decodes(self) -> bool:
        return hasattr(self.net, "conv_final")

    def encode(self, image: Tensor) -> list[Tensor]:
        with _precise(image, self._factors):
            return list(self.net.encode(image)[1])

    def decode(self, skips: Sequence[Tensor], *, all_scales: bool) -> list[Tensor]:  # noqa: ARG002 - one scale
        with _precise(skips[0], self._factors):
            return [self.net.decode(skips[-1], list(reversed(skips)))]


class AttentionUNet(Segmenter):
    """A U-Net whose skip connections pass through a gate that the coarser stage controls."""

    def __init__(self, in_channels: int, out_channels: int, plan: NetworkPlan) -> None:
        super().__init__()
        net = nets.AttentionUnet(3, in_channels, max(out_channels, 1), channels=plan.features, strides=plan.strides[1:])
        first, layer, to_logits = net.model
        stages, gates = [first], list[nn.Module]()
        while layer is not None:
            gates.insert(0, layer)
            stage, layer = layer.submodule if isinstance(layer.submodule, nn.Sequential) else (layer.submodule, None)
            stages.append(stage)
            gates[0].submodule = nn.Identity()
        self.encoder = nn.ModuleList(stages)
        self.gates = nn.ModuleList(gates if out_channels else ())
        self.to_logits = to_logits if out_channels else nn.Identity()
        self._factors = plan.factors
        _use_instance_norm(self)

    @property
    def decodes(self) -> bool:
        return len(self.gates) > 0

    def encode(self, image: Tensor) -> list[Tensor]:
        with _precise(image, self._factors):
            skips = [image]
            for stage in self.encoder:
                skips.append(stage(skips[-1]))
            return skips[1:]

    def decode(self, skips: Sequence[Tensor], *, all_scales: bool) -> list[Tensor]:  # noqa: ARG002 - one scale
        with _precise(skips[0], self._factors):
            x = skips[-1]
            for gate, skip in zip(self.gates, skips[-2::-1], strict=True):
                below = gate.upconv(x)  # type: ignore[operator]
                x = gate.merge(torch.cat([gate.attention(g=below, x=skip), below], dim=1))  # type: ignore[operator]
            return [self.to_logits(x)]


def _use_instance_norm(module: nn.Module) -> None:
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm3d):
                setattr(parent, name, nn.InstanceNorm3d(child.num_features, affine=True))


def _precise(x: Tensor, factors: Shape) -> AbstractContextManager[object]:
    """fp32 on a CPU where the coarsest map is so thin that bf16 weight gradients are wrong there (`network._convolve`).

    Args:
        x: At full resolution.
        factors: How much the network shrinks each axis.
    """
    thin = min(size // factor for size, factor in zip(x.shape[2:], factors, strict=True)) <= _THINNEST_BF16
    return torch.autocast("cpu", enabled=False) if thin and x.device.type == "cpu" else nullcontext()
