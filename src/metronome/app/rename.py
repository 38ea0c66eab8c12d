"""The user's package, under another name: its folders, and every place that names it.

Of a package `shop` that is in whole dotted names (`shop.data.Digits`), imports, values of `_target_`, and paths
(`src/shop`, `tests/shop`). The same word in prose, or as a key or a variable, stays.
"""

import ast
import os
import re
import sys
from collections import Counter
from collections.abc import Collection
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path

from metronome.units import InputError

# Beside these only the files at the top are looked at: what else lies there, such as runs, is not the template's.
_FOLDERS = ("conf", "src", "scripts", "tests", ".github", ".ci")


def rename(root: Path, name: str, package: str | None = None) -> str:
    """Give the user's package another name.

    Args:
        root: the checkout.
        name: the new name.
        package: the name now; None for the only package beside `metronome`.

    Returns:
        What was done and what to do next, as lines for the terminal.

    Raises:
        InputError: for a name that cannot be, or a package that is not there. Nothing has been changed then.
    """
    old = package_of(root, package)
    check_name(root, old, name)
    texts = new_texts(root, old, name)
    folders = [folder for top in ("src", "tests") if (folder := root / top / old).is_dir()]
    for path in [*texts, *(folder.parent for folder in folders)]:
        if not os.access(path, os.W_OK):
            raise InputError(f"cannot write to {path.relative_to(root)}, so nothing was renamed")
    for path, text in texts.items():
        path.write_bytes(text.encode())
    for folder in folders:
        folder.rename(folder.with_name(name))
    return _told(root, old, name, folders, texts)


def package_of(root: Path, package: str | None) -> str:
    """The user's package: the one beside `metronome`, or that of several which is named.

    Raises:
        InputError: if there is none, or more than one to choose from.
    """
    found = sorted(file.parent.name for file in root.glob("src/*/__init__.py") if file.parent.name != "metronome")
    if package is not None and package not in found:
        raise InputError(f"src/{package} is no package of yours; there is {', '.join(found) or 'none'}")
    if not found:
        raise InputError("there is no package beside metronome in src, so there is nothing to rename")
    if package is None and len(found) > 1:
        raise InputError(f"src holds {', '.join(found)}; say which to rename, such as --package {found[0]}")
    return package or found[0]


def check_name(root: Path, old: str, name: str) -> None:
    """Raises InputError for a name that no package can have, or that something else has."""
    if re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) is None:
        raise InputError(f"{name!r} is no name for a package; write letters, digits and _, such as my_project")
    if name == old:
        raise InputError(f"the package is called {name} already")
    reason = _taken(root, name)
    if reason:
        raise InputError(f"{name} is taken: {reason}; choose another name")


def _taken(root: Path, name: str) -> str:
    """By what, or nothing."""
    if iskeyword(name):
        return "it is a word of Python's own"
    if name in sys.stdlib_module_names:
        return "a module that comes with Python is called so"
    # Folders, and the modules that lie where a script or a test looks first.
    paths = [f"src/{name}", f"tests/{name}", name, f"scripts/{name}.py", f"tests/support/{name}.py"]
    for path in paths:
        if (root / path).exists():
            return f"there is {path}"
    return "a package of that name is installed" if find_spec(name) else ""


def new_texts(root: Path, old: str, name: str) -> dict[Path, str]:
    """The files that name the package, and their new texts. Raises InputError if the package cannot be read."""
    members = members_of(root / "src" / old)
    files = [path for folder in _FOLDERS for path in (root / folder).rglob("*")] + list(root.glob("*"))
    texts = {}
    for path in sorted(files):
        if not path.is_file() or path.is_symlink() or "__pycache__" in path.parts:
            continue
        try:
            before = path.read_bytes().decode()  # as it is, its line ends too
        except UnicodeDecodeError:
            continue  # a picture
        if (after := renamed(before, old, name, members)) != before:
            texts[path] = after
    return texts


def members_of(package: Path) -> set[str]:
    """What can follow the package's name in a dotted one: its modules, and what its `__init__.py` defines or imports.

    Raises:
        InputError: if the file is no Python.
    """
    try:
        tree = ast.parse((package / "__init__.py").read_bytes())
    except SyntaxError as error:
        raise InputError(f"src/{package.name}/__init__.py has a mistake in line {error.lineno}: {error.msg}") from error
    names = {path.stem for path in package.iterdir() if path.is_dir() or path.suffix == ".py"}
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.alias(name=name, asname=other):
                names.add(other or name)
    return {name for name in names if name.isidentifier()}


def renamed(text: str, old: str, new: str, members: Collection[str]) -> str:
    """A text with the package's new name.

    Args:
        text: of any kind of file.
        old: the package's name.
        new: its new one.
        members: what can follow the old name in a dotted one.
    """
    member = "|".join(sorted(members, key=len, reverse=True))
    places = (
        # shop.data.Digits, and neither my.shop.data nor [shop.data], the head of a part of pyproject.toml
        rf"((?<![\w./-])(?<!^\[)|(?<=://)){old}(?=\.(?:{member}|__\w+__)\b)",
        rf"(_target_[\"']?[:=]\s*[\"']?){old}(?=\.)",
        rf"(\bfrom ){old}(?= import\b)",
        rf"((?:^[ \t>.]*|[;\"'`] *)import ){old}(?=[ \t\r]*(?:$|[;#\"'`]|as\b))",
        rf"((?<![\w-])(?:src|tests)/){old}(?![\w-]|\.\w)",
        rf"(\]\((?:\.\./)+){old}(?=[/)#])",  # a link from one guide to another
    )
    for place in places:
        text = re.sub(place, rf"\g<1>{new}", text, flags=re.MULTILINE)
    return text


def _told(root: Path, old: str, name: str, folders: list[Path], texts: dict[Path, str]) -> str:
    counts = Counter(path.relative_to(root).parts[0] for path in texts)
    moves = ", ".join(f"{path.relative_to(root)} to {path.relative_to(root).with_name(name)}" for path in folders)
    lines = [
        f"renamed    {moves}",
        f"changed    {len(texts)} files: {', '.join(f'{count} in {top}' for top, count in sorted(counts.items()))}",
        "next       ruff check -q --fix . && ruff format -q .    # the new name may sort elsewhere among the imports",
        f"           python -m pytest tests/{name}",
        f"           checkpoints from before ask for {old}; src/{name}/README.md says how to test them",
    ]
    return "\n".join(lines)
