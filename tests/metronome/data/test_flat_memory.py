"""One size more costs nothing: memory and start, of 10**5, 10**7 and 10**12 samples, each in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import PROJECT

MB = 2**20
SMALL, LARGE, ENDLESS = 10**5, 10**7, 10**12  # rows of 256 bytes: 26 MB, 2.6 GB, 256 TB


def train(folder: Path, kind: str, rows: int, workers: int = 0, **more: Any) -> dict[str, Any]:
    asked = {"kind": kind, "rows": rows, "workers": workers, "steps": 40, "folder": str(folder), **more}
    done = subprocess.run(
        [sys.executable, str(PROJECT / "tests/support/flat.py"), json.dumps(asked)],
        capture_output=True, text=True, check=False, timeout=300,
        env={"PYTHONPATH": str(PROJECT / "src"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    shown = {name: round(value / MB) for name, value in found.items() if isinstance(value, int)}
    print(
        f"{kind} {rows:.0e} workers {workers} {more or ''}: {shown} MB, {found['first_batch_seconds']:.2f} s to a batch"
    )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_does_not_grow_with_the_samples(workers: int, tmp_path: Path) -> None:
    """Of a file no more than 256 MB are mapped, which the system may take back; of a process's own, nothing more."""
    small = train(tmp_path, "mapped", SMALL, workers)
    large = train(tmp_path, "mapped", LARGE, workers)
    resumed = train(tmp_path, "mapped", LARGE, workers, resume=True, steps=60)
    endless = [train(tmp_path, "computed", rows, workers) for rows in (SMALL, ENDLESS)]
    endless.append(train(tmp_path, "computed", ENDLESS, workers, resume=True, steps=60))
    for name, less, more in (("mapped", small, [large, resumed]), ("computed", endless[0], endless[1:])):
        for each in more:
            for part in ("own", "worker_own"):
                assert each[part] <= less[part] + 16 * MB, f"{name}: {part}"
            for part in ("peak", "worker_peak"):
                assert each[part] <= less[part] + (256 + 32) * MB, f"{name}: {part}"
    if not workers:
        assert large["weights"] == train(tmp_path, "mapped", LARGE, 2)["weights"]
        assert endless[1]["weights"] == train(tmp_path, "computed", ENDLESS, 2)["weights"]


@pytest.mark.slow
def test_the_measurement_sees_what_is_read_as_a_whole(tmp_path: Path) -> None:
    large = train(tmp_path, "memory", 4 * 10**6)
    assert large["own"] > train(tmp_path, "mapped", 4 * 10**6)["own"] + 500 * MB
