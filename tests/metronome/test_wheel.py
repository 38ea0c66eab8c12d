"""The library on its own: what is built of this checkout holds no more, and needs no more."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from commands import PROJECT
from copies import copy_of_template

# Without the checkout, which an editable install has on the path.
RUN = """
import runpy, sys
sys.path[:] = [sys.argv[1], *(path for path in sys.path if path != sys.argv[2])]
runpy.run_path(sys.argv[3])
used = [module for name, module in sys.modules.items() if name.split(".")[0] == "metronome"]
assert used and all(module.__file__.startswith(sys.argv[1]) for module in used)
"""


@pytest.mark.slow
def test_the_library_on_its_own(tmp_path: Path) -> None:
    """The script of the guide to the engine runs with the wheel alone, and gets the right answer."""
    template = copy_of_template(tmp_path / "template")  # where the build may leave what it likes
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=template, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = [name for name in file.namelist() if ".dist-info/" not in name]
        file.extractall(tmp_path / "library")
    include = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"][
        "include"
    ]
    assert {name.split("/")[0] for name in names} == {pattern.rstrip("*") for pattern in include}
    source = {str(path.relative_to(PROJECT / "src")) for path in (PROJECT / "src/metronome").rglob("*.py")}
    assert source | {"metronome/py.typed", "hydra_plugins/metronome.py"} <= set(names)

    guide = (PROJECT / "src/metronome/training/README.md").read_text()
    (script,) = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "-c", RUN, str(tmp_path / "library"), str(PROJECT / "src"), "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (weights,) = re.findall(r"tensor\(\[\[(.*?)\]\]", done.stdout)
    assert [float(weight) for weight in weights.split(",")] == pytest.approx([1, -2, 3], abs=1e-3)
