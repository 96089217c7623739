"""How long `medseg --help` takes, beside a Python process that does nothing. Writes benchmarks/results/cli.json."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 7
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "medseg --help": [str(Path(sys.executable).with_name("medseg")), "--help"],
}


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS + 1):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(round(time.perf_counter() - start, 3))
    result = {
        name: {"median_s": statistics.median(values[1:]), "min_s": min(values[1:]), "max_s": max(values[1:])}
        for name, values in seconds.items()
    }
    Path(__file__).with_name("results").joinpath("cli.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
