"""torch.compile around encoder and decoder, where it pays and where it works."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from medseg.engine.devices import autocast

if TYPE_CHECKING:
    from medseg.core.plan import Plan
    from medseg.nn.network import Network

logger = logging.getLogger(__name__)


def compile_network(network: Network, plan: Plan, *, batch_size: int, dtype: torch.dtype | None) -> bool:
    """Compile the segmentation network, and make one pass through it, since a compiler fails at its first use.

    The classification head stays as it is: how many samples it gets changes from step to step. Weights keep their
    names, and no gradient is left behind.

    Args:
        network: On its device.
        plan: Gives the shape of what it will be fed.
        batch_size: Samples at a time.
        dtype: Reduced precision.

    Returns:
        Whether it is compiled; if not, a warning (`W-COMPILE`) says why and training goes on without.
    """
    plain = network.unet.encode, network.unet.decode
    device = next(network.parameters()).device
    example = torch.zeros(batch_size, len(plan.channels), *plan.patch_size, device=device)
    network.unet.encode = torch.compile(plain[0])  # type: ignore[method-assign]
    network.unet.decode = torch.compile(plain[1])  # type: ignore[method-assign]
    try:
        network.train()
        with autocast(device, dtype):
            features = network.unet.encode(example.contiguous(memory_format=torch.channels_last_3d))
            answers = network.unet.decode(features, all_scales=True) if network.unet.decodes else features
        torch.stack([answer.float().mean() for answer in answers]).sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001 - compilers fail in every way, and training works without one
        network.unet.encode, network.unet.decode = plain  # type: ignore[method-assign]
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        logger.warning("W-COMPILE: training goes on without torch.compile, which failed: %s", reason)
        return False
    finally:
        network.zero_grad(set_to_none=True)
    return True
