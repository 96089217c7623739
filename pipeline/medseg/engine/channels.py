"""What a model asks of the channels of its input."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from medseg.core.errors import InputError, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from medseg.core.volume import Volume
    from medseg.io.bundle import Bundle

_OF_CHANNELS = {"E-CHANNELS", "E-NDIM", "E-RGB"}


@contextmanager
def read_for(channels: Sequence[str]) -> Iterator[None]:
    """Around the reading of an image: who gave more or fewer channels is told those that the model takes.

    Args:
        channels: Of the model, by name.
    """
    try:
        yield
    except InputError as error:
        if error.code in _OF_CHANNELS:
            error.remedy = f"The model takes {_words(channels)}. {error.remedy}"
        raise


def require_channels(volume: Volume, model: Bundle) -> None:
    """Make sure that the network was made for images like this.

    Raises:
        ModelError: E-CHANNELS for another number of channels; E-CHANNEL-MISSING for one that every training case had.
    """
    channels, optional = model.plan.channels, model.manifest.optional_channels
    if volume.num_channels != len(channels):
        raise ModelError(
            f"the model takes {_words(channels)}; the input has {volume.num_channels}",
            code="E-CHANNELS",
            file=volume.source,
            remedy="Give one --volume per channel, in this order: `none` for one that the case lacks.",
        )
    if unknown := [channels[place] for place in volume.missing if place not in optional]:
        raise ModelError(
            f"the case lacks {', '.join(unknown)}, without which this model was never trained",
            code="E-CHANNEL-MISSING",
            file=volume.source,
            remedy="Give the channel, or use a model trained with --channel-dropout.",
        )


def _words(channels: Sequence[str]) -> str:
    if len(channels) == 1:
        return f"one channel ({channels[0]})"
    return f"{len(channels)} channels ({', '.join(channels)}, in this order)"
