"""Help, configuration and tab completion need not wait for torch."""

import os
import subprocess
import sys

import pytest
from commands import PROJECT

CODE = """
import runpy, sys
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit:
    pass
print([name for name in ("torch", "lightning", "numpy", "sklearn") if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], "one batch is one step"),
        (["--cfg", "job", "+experiment=digits"], "batch_size: 64"),
        (["--shell-completion", "query=bash"], "scheduler="),
    ],
)
def test_no_torch(arguments: list[str], words: str) -> None:
    script = str(PROJECT / "scripts/train.py")
    line = f"python {script} sched"
    environment = os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    program = f"import sys; sys.argv = {[script, *arguments]!r}\n{CODE}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    assert words in done.stdout
    assert done.stderr.strip() == "[]"
