"""The guides, followed to the letter: their code, commands and links. How they say it is free."""

import doctest
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from commands import PROJECT, Commands, run_apart
from copies import copy_of_template

from metronome.units import BatchSchedule, Duration, Plan

README = (PROJECT / "README.md").read_text()
GUIDES = [
    path
    for place in ("README.md", ".github/*.md", "conf/**/README.md", "src/*/README.md", "src/metronome/*/**/README.md")
    for path in sorted(PROJECT.glob(place))
]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_first_two_lines_are_the_main_job_and_the_tests() -> None:
    first, second = blocks("bash")[0].strip().splitlines()
    assert first.endswith("scripts/train.py +experiment=digits")
    assert second.endswith("-m pytest -n auto")


def walkthrough(text: str) -> tuple[dict[str, str], str]:
    """The files that a guide has its reader write, and the command that comes after the last of them.

    A file is a block of Python or YAML before which the path is named, between it and the block above.
    """
    files, command = {}, ""
    for before, language, code in re.findall(r"(.*?)^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE):
        named = re.findall(r"`((?:src|conf)/\S+\.(?:py|yaml))`", before)
        if language in ("python", "yaml") and named:
            files[named[-1]], command = code, ""
        elif language == "bash" and files and not command:
            command = code
    return files, command


def test_make_it_yours(tmp_path: Path) -> None:
    """In a copy of the template: the files of README's steps, with what they say, then their command."""
    files, command = walkthrough(README)
    if not files:
        pytest.skip("README has no steps to follow")
    template = copy_of_template(tmp_path / "template")
    for name, content in files.items():
        (template / name).write_text(content)
    python, script, *arguments = shlex.split(command)
    assert (python, script) == ("python", "scripts/train.py")
    done = run_apart(tmp_path, "train", *arguments, project=template, PYTHONPATH=str(template / "src"))
    assert done.code == 0, done.err
    assert done.result["progress"]["steps"] == 320
    assert done.result["metrics"]["test/acc"] > 0.9


def test_a_table() -> None:
    """The data set of the guide, as it is written there: 569 samples of 30 features, scaled by the training's."""
    guide = (PROJECT / "src/project/README.md").read_text()
    (code,) = [block for block in blocks("python", guide) if "class Table" in block]
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    splits = namespace["Table"](batch_size=50).load()
    assert [len(part[0]) for part in splits[:3]] == [398, 85, 86]
    assert abs(splits.train[0].mean(axis=0)).max() < 1e-12
    assert abs(splits.train[0].std(axis=0) - 1).max() < 1e-12
    assert abs(splits.val[0].mean(axis=0)).max() > 0.01


def commands_in(text: str) -> list[str]:
    """The lines of a guide that compose a configuration."""
    lines = [line for block in blocks("bash", text) for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if re.match(r"python scripts/(train|plan)\.py (?!--help|.*=mine)", line)]


@pytest.mark.parametrize("line", sorted({line for guide in GUIDES for line in commands_in(guide.read_text())}))
def test_every_command_is_understood(line: str, commands: Commands) -> None:
    """Composed, not run: what the examples override is there."""
    words = shlex.split(line, comments=True)
    overrides = [word for word in words[2:] if word != "-m"]
    overrides = [re.sub(r"=(\w+),.*", r"=\1", override) for override in overrides]
    if "hydra/launcher=slurm" in overrides:
        pytest.importorskip("submitit")
    done = commands(Path(words[1]).stem, "--cfg", "job", *overrides)
    assert done.code == 0, done.err


def test_the_guide_to_units() -> None:
    """Its Python gives what it says, and its plans are those of the numbers it names."""
    guide = (PROJECT / "src/metronome/units/README.md").read_text()
    examples = doctest.DocTestParser().get_doctest(*blocks("python", guide), {}, "guide", None, None)  # pyright: ignore
    assert doctest.DocTestRunner().run(examples) == (0, 3)
    schedule = BatchSchedule.of(32, 1257, {"factor": 2, "every": "5 epochs"})
    grown = Plan.make(1257, schedule, budgets=[Duration.parse("30 epochs")]).text().splitlines()
    (shown,) = re.findall(r"```\n(epochs 0-4.*?)```", guide, flags=re.DOTALL)
    assert shown.splitlines() == [line for line in grown if line.startswith("epochs ")][:3]
    plan = Plan.make(1257, BatchSchedule(64), budgets=[Duration.parse("15 epochs")])
    durations = re.findall(r"^\| `(?:\S+?=)\"?([\w. %]+?)\"?`(?: \(.*?\))? \| (\d+)", guide, flags=re.MULTILINE)
    assert [plan.steps(written) for written, _ in durations if written != "10"] == [40, 478, 15, 100]
    assert [int(steps) for _, steps in durations] == [40, 478, 15, 100, 10]


@pytest.mark.parametrize("path", GUIDES, ids=str)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target
