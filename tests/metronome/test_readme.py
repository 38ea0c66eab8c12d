"""README, followed to the letter."""

import doctest
import re
import shlex
import shutil
from pathlib import Path

import pytest
from commands import PROJECT, Commands, run_apart

from metronome.units import BatchSchedule, Duration, Plan

README = (PROJECT / "README.md").read_text()
GUIDES = [PROJECT / "README.md", *sorted(PROJECT.glob("[cs]*/**/README.md"))]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_first_two_lines_are_the_main_job_and_the_tests() -> None:
    first, second = blocks("bash")[0].strip().splitlines()
    assert first.endswith("scripts/train.py +experiment=digits")
    assert second.endswith("-m pytest -n auto")


def test_make_it_yours(tmp_path: Path) -> None:
    """In a copy of the project: the files that the four steps name, with what they say, then their command."""
    project = tmp_path / "project"
    shutil.copytree(PROJECT, project, ignore=shutil.ignore_patterns(".*", "runs", "__pycache__", "*.egg-info", "tests"))
    section = README.split("## Make it yours")[1].split("\n## ")[0]
    written = re.findall(r"`((?:src|conf)/\S+\.(?:py|yaml))`.*?```(?:python|yaml)\n(.*?)```", section, flags=re.DOTALL)
    assert [name for name, _ in written] == [
        "src/metronome/data/mine.py",
        "src/metronome/models/mine.py",
        "conf/data/mine.yaml",
        "conf/model/mine.yaml",
        "conf/experiment/mine.yaml",
    ]
    for name, content in written:
        (project / name).write_text(content)
    (command,) = blocks("bash", section)
    python, script, *arguments = shlex.split(command)
    assert (python, script) == ("python", "scripts/train.py")
    done = run_apart(tmp_path, "train", *arguments, project=project, PYTHONPATH=str(project / "src"))
    assert done.code == 0, done.err
    assert done.result["progress"]["steps"] == 320
    assert done.result["metrics"]["test/acc"] > 0.9


def commands_in(text: str) -> list[str]:
    """The lines of a guide that compose a configuration."""
    lines = [line for block in blocks("bash", text) for line in block.splitlines()]
    return [line for line in lines if re.match(r"python scripts/(train|plan)\.py (?!--help|.*=mine)", line)]


@pytest.mark.parametrize("line", sorted({line for guide in GUIDES for line in commands_in(guide.read_text())}))
def test_every_command_is_understood(line: str, commands: Commands) -> None:
    """Composed, not run: what the examples override is there."""
    words = shlex.split(line, comments=True)
    overrides = [word for word in words[2:] if word != "-m"]
    overrides = [re.sub(r"=(\w+),.*", r"=\1", override) for override in overrides]
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
