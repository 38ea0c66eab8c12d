"""The groups of the configuration and their files, as they lie in the folders. Imports nothing heavy."""

import re
from collections.abc import Iterable
from pathlib import Path

HIDDEN = ("base", "hydra")  # which only the others build on, and how a command itself is set up


def folders_of(arguments: Iterable[str], script: str) -> list[Path]:
    """Where a script's configuration lies: `conf` beside `scripts`, and the folders that `--config-dir` adds."""
    folders, words = [Path(script).resolve().parents[1] / "conf"], list(arguments)
    for word, after in zip(words, [*words[1:], ""], strict=False):
        if word.startswith("--config-dir="):
            folders.append(Path(word.partition("=")[2]))
        elif word in ("--config-dir", "-cd"):
            folders.append(Path(after))
    return [folder for folder in folders if folder.is_dir()]


def files_by_group(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """The files of each group, in the order of their names."""
    found: dict[str, dict[str, Path]] = {}
    for folder in folders:
        for file in sorted(folder.glob("*/*.yaml")):
            if file.parent.name not in HIDDEN and file.stem not in HIDDEN:
                found.setdefault(file.parent.name, {})[file.stem] = file
    return {group: [files[name] for name in sorted(files)] for group, files in sorted(found.items())}


def chosen_by_default(folders: Iterable[Path]) -> dict[str, str]:
    """The groups in the defaults of train.yaml, with the file of each. The others are added with a plus sign."""
    for folder in folders:
        if (file := folder / "train.yaml").is_file():
            return dict(
                re.findall(r"^\s*-\s*(?:override\s+)?/?(\w+): *(\w+)", _defaults(file.read_text()), re.MULTILINE)
            )
    return {}


def _defaults(text: str) -> str:
    """The list `defaults` of a file."""
    found = re.search(r"^defaults:\n((?:[ \t]*-.*\n|[ \t]*#.*\n|\n)+)", text, re.MULTILINE)
    return found[1] if found else ""


def what_it_is(file: Path) -> str:
    """The first sentence of the comment that a file begins with; an empty text where there is none."""
    lines: list[str] = []
    for line in file.read_text(errors="replace").splitlines():
        if line.startswith("# @") or (not line.strip() and not lines):
            continue  # a directive of Hydra's
        if not line.startswith("#"):
            break
        if not (text := line[1:].strip()):
            break
        lines.append(text)
    text = " ".join(lines)
    end = re.search(r"(?<!al)(\.(?= [A-Z0-9(]|$)|(?<=\?)(?= ))", text)
    return text[: end.start()] if end else text
