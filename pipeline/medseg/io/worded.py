"""What a reading says in words, not voxels: names, headers, lists. It makes the same way out of the reading process."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from medseg.io.decoded import Decoded


def worded(facts: Any) -> Decoded:
    """Facts that JSON can hold, as a containable decoder may return them: its bytes stand where voxels do."""
    text = json.dumps(facts).encode()
    return Decoded(np.frombuffer(text, np.uint8).reshape(1, 1, -1), np.eye(4))


def facts_of(decoded: Decoded) -> Any:
    """The facts again, of which nothing is believed yet."""
    return json.loads(decoded.array.tobytes())
