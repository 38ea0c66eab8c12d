"""`metronome.units` is pure Python: what uses it need not wait for torch to load."""

import subprocess
import sys


def test_units_load_no_framework():
    code = (
        "import sys, metronome.units; "
        "print(sorted({name.split('.')[0] for name in sys.modules}"
        " & {'torch', 'lightning', 'pytorch_lightning', 'numpy', 'hydra', 'omegaconf'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_all_is_what_is_exported():
    import metronome.units

    assert all(hasattr(metronome.units, name) for name in metronome.units.__all__)
    assert metronome.units.__all__ == sorted(metronome.units.__all__)
