"""A Ray cluster to work on: started on this machine with a token of its own, or joined with one.

Whoever may talk to Ray may run anything: it asks for a token, listens on this machine only unless a cluster is named,
and neither its dashboard nor its usage statistics run.
"""

from __future__ import annotations

import os
import secrets
import signal
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.errors import ResourceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_STORE_BYTES = 100 * 2**20
_SPARE_ROOM = 2  # workers that stand by need room beside those that work
_LOOPBACK = "127.0.0.1"
# Without the first, Ray puts the machine's own address in place of the loopback's; without the last, everything else on
# a busy machine goes before its workers, which would then be slower than no workers at all.
_ONLY_HERE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_worker_niceness": "0",
}
_TOKEN, _TOKEN_FILE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_OWN_TOKEN = Path("~/.ray/auth_token")


def share_of_cluster(ray: Any, num_workers: int, *, is_ours: bool, with_gpu: bool) -> dict[str, float]:
    """An even share of the cluster's processors for each worker, and of its GPUs for work that needs one."""
    whole = ray.cluster_resources()
    cores = whole.get("CPU", 1) // (_SPARE_ROOM if is_ours else 1)
    smallest = min(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
    gpus = min(1.0, whole.get("GPU", 0.0) / num_workers) if with_gpu else 0.0
    return {"num_cpus": max(1, min(cores // num_workers, smallest)), "num_gpus": gpus}


@contextmanager
def connected(address: str | None, num_workers: int) -> Iterator[Any]:
    """Ray, started on this machine with a token of its own, or joined; left as it was found.

    Raises:
        UsageError: `E-EXTRA` without Ray, `E-RAY-TOKEN` for a cluster without a token.
        ResourceError: `E-RAY` when the cluster cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="medseg-ray-") as folder:
        yield from _connection(address, num_workers, Path(folder))


def _connection(address: str | None, num_workers: int, folder: Path) -> Iterator[Any]:
    os.environ.update(_secured(address, folder))
    try:
        import ray
        import ray.exceptions
    except ImportError:
        message = "--engine ray needs the package ray"
        raise UsageError(message, code="E-EXTRA", remedy="Run: pip install 'medseg[ray]'.") from None
    here = {
        "num_cpus": _SPARE_ROOM * max(os.cpu_count() or 1, num_workers),
        "object_store_memory": _STORE_BYTES,
        "include_dashboard": False,
        "_node_ip_address": _LOOPBACK,
    }
    on_end = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **({} if address else here))
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ResourceError(
            f"Ray cannot be {'reached' if address else 'started'}: {str(error).splitlines()[0]}",
            code="E-RAY",
            remedy="Check the address and the token." if address else "Run without --engine ray.",
        ) from error
    try:
        signal.signal(signal.SIGTERM, on_end)  # Ray sets its own
        yield ray
    finally:
        ray.shutdown()


def _secured(address: str | None, folder: Path) -> dict[str, str]:
    """Ray's variables; a token of our own for workers on this machine.

    Raises:
        UsageError: `E-RAY-TOKEN`.
    """
    words = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    if address is not None:
        has_file = Path(os.environ.get(_TOKEN_FILE, _OWN_TOKEN)).expanduser().is_file()
        if not os.environ.get(_TOKEN) and not has_file:
            raise UsageError(
                f"the cluster at {address} is named without a token",
                code="E-RAY-TOKEN",
                remedy=f"Start it with RAY_AUTH_MODE=token and put its token into {_OWN_TOKEN}.",
            )
        return words
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32), encoding="ascii")
    os.environ.pop(_TOKEN, None)
    return {**words, _TOKEN_FILE: str(token), **_ONLY_HERE}
