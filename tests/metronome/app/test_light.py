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


@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_asleep_unless_told_otherwise(given: str | None, found: str) -> None:
    """PyTorch reads the variable when it is loaded, so that must come later."""
    code = "with command_line(): print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    program = f"import os, sys\nfrom metronome.app.console.command_line import command_line\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout.split() == [found, "False"], done.stderr
