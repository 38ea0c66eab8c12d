"""The user's package under another name: which words of a text are its name, which names it can have, and that all of
the template works with the new one. The tables rename a `shop`, since a real renaming goes through this file too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import PROJECT, run_apart
from copies import copy_of_template

from metronome.app.rename import members_of, package_of, rename, renamed
from metronome.units import InputError

# The package of the examples, whatever it is called by now, and a name that nobody has.
OWN = yaml.safe_load((PROJECT / "conf/data/digits.yaml").read_text())["_target_"].split(".")[0]
NEW = "named_by_a_test"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Python
        ("from shop.data import Bread", "from bakery.data import Bread"),
        ("from shop import data, models", "from bakery import data, models"),
        ("import shop.models.oven as oven", "import bakery.models.oven as oven"),
        ("import shop\nx = shop.data.Bread()", "import bakery\nx = bakery.data.Bread()"),
        ("    import shop  # now", "    import bakery  # now"),
        ("import shop as s", "import bakery as s"),
        ("import shop\r\n", "import bakery\r\n"),
        ('code = "import shop; print(shop.__file__)"', 'code = "import bakery; print(bakery.__file__)"'),
        ('patch("shop.models.oven")', 'patch("bakery.models.oven")'),
        ("@shop.data.register", "@bakery.data.register"),
        # configuration and command lines
        ("_target_: shop.data.Bread", "_target_: bakery.data.Bread"),
        ("_target_: shop.Oven  # by another way", "_target_: bakery.Oven  # by another way"),
        ('"_target_": "shop.Oven"', '"_target_": "bakery.Oven"'),
        ("model.network._target_=shop.models.oven", "model.network._target_=bakery.models.oven"),
        ("searchpath: [pkg://shop.data]", "searchpath: [pkg://bakery.data]"),
        # paths and guides
        ("Write `src/shop/data/bread.py`.", "Write `src/bakery/data/bread.py`."),
        ("src/shop is yours; see tests/shop.", "src/bakery is yours; see tests/bakery."),
        ("[yours](../../shop/README.md)", "[yours](../../bakery/README.md)"),
        ("[tests](../../tests/shop/test_data.py)", "[tests](../../tests/bakery/test_data.py)"),
        # the package's name once, and once that of a module or an experiment
        ("_target_: shop.data.shop.Shop", "_target_: bakery.data.shop.Shop"),
        ("src/shop/data/shop.py conf/data/shop.yaml +experiment=shop", None),
        # no name of the package
        ("A shop. The shop is open; shop.", None),
        ("we import shop goods and export them", None),
        ("from shop to shop", None),
        ("  shop: metronome", None),
        ("shop = Path(); shop.name, shop / 'data', open(shop=shop)", None),
        ("my.shop.data, workshop.data, my_shop.data, my-shop.data, shop.database", None),
        ("[shop]\nname = 'x'\n[shop.data]\n[shop.optional-dependencies]", None),
        ("src/shop_two, src/shop-two, other_src/shop, tests/shop.py, conf/shop, lib/shop.data", None),
    ],
)
def test_which_words_are_the_name(text: str, expected: str | None) -> None:
    if expected is None:
        expected = text.replace("src/shop/", "src/bakery/")
    assert renamed(text, "shop", "bakery", {"data", "models"}) == expected


def checkout(folder: Path, *packages: str) -> Path:
    for package in ("metronome", *packages):
        (folder / "src" / package).mkdir(parents=True)
        (folder / "src" / package / "__init__.py").touch()
    (folder / "src/hydra_plugins").mkdir()
    (folder / "src/metronome.egg-info").mkdir()
    for path in ("scripts/train.py", "tests/support/jobs.py", "tests/other/test_it.py"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "'' is no name for a package; write letters, digits and _, such as my_project"),
        ("3d", "'3d' is no name for a package"),
        ("my-shop", "'my-shop' is no name for a package"),
        ("my.shop", "'my.shop' is no name for a package"),
        ("_shop", "'_shop' is no name for a package"),
        ("shop", "the package is called shop already"),
        ("class", "class is taken: it is a word of Python's own; choose another name"),
        ("json", "json is taken: a module that comes with Python is called so"),
        ("metronome", "metronome is taken: there is src/metronome"),
        ("hydra_plugins", "hydra_plugins is taken: there is src/hydra_plugins"),
        ("other", "other is taken: there is tests/other"),
        ("tests", "tests is taken: there is tests"),
        ("train", "train is taken: there is scripts/train.py"),
        ("jobs", "jobs is taken: there is tests/support/jobs.py"),
        ("torch", "torch is taken: a package of that name is installed"),
    ],
)
def test_a_name_that_cannot_be(name: str, words: str, tmp_path: Path) -> None:
    before = sorted(checkout(tmp_path, "shop").rglob("*"))
    with pytest.raises(InputError) as error:
        rename(tmp_path, name)
    assert str(error.value).startswith(words)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("packages", "asked", "found"),
    [
        (["shop"], None, "shop"),
        (["shop", "farm"], "farm", "farm"),
        (["shop", "farm"], None, "src holds farm, shop; say which to rename, such as --package farm"),
        (["shop"], "farm", "src/farm is no package of yours; there is shop"),
        (["shop"], "metronome", "src/metronome is no package of yours; there is shop"),
        ([], "farm", "src/farm is no package of yours; there is none"),
        ([], None, "there is no package beside metronome in src, so there is nothing to rename"),
    ],
)
def test_which_package(packages: list[str], asked: str | None, found: str, tmp_path: Path) -> None:
    checkout(tmp_path, *packages)
    if found in packages:
        assert package_of(tmp_path, asked) == found
        return
    with pytest.raises(InputError) as error:
        package_of(tmp_path, asked)
    assert str(error.value) == found


def test_what_can_follow_the_name(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("oven.py", "README.md"):
        (tmp_path / name).touch()
    lines = [
        "from shop.data import *",
        "from shop.oven import A as B, C",
        "x, y = 1, 2",
        "def f(): pass",
        "class D: ...",
    ]
    (tmp_path / "__init__.py").write_text("\n".join(lines))
    assert members_of(tmp_path) - {"__init__"} == {"data", "oven", "B", "C", "x", "y", "f", "D"}
    (tmp_path / "__init__.py").write_text("x = (")
    with pytest.raises(InputError, match=r"__init__.py has a mistake in line 1: '\(' was never closed"):
        members_of(tmp_path)


# ---- the template -----------------------------------------------------------------------------------------


@pytest.fixture
def template(tmp_path: Path) -> Path:
    return copy_of_template(tmp_path / "template")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_there_and_back(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No place that names the package is left, the engine's code is as it was, and back again all is as before."""
    before = contents(template)
    assert f"src/{OWN} to src/{NEW}" in rename(template, NEW, OWN)
    after = contents(template)
    assert not [path for path in after if path.startswith((f"src/{OWN}/", f"tests/{OWN}/"))]
    assert not [path for path, text in after.items() for room in ("data", "models") if f"{OWN}.{room}".encode() in text]
    assert f"_target_: {NEW}.data.Digits".encode() in after["conf/data/digits.yaml"]
    engine = [path for path in before if path.startswith("src/metronome/") and path.endswith(".py")]
    assert [after[path] for path in engine] == [before[path] for path in engine]
    monkeypatch.setattr("metronome.app.rename.find_spec", lambda name: None)  # which finds the one that was copied
    rename(template, OWN, NEW)
    assert contents(template) == before


@pytest.mark.slow
def test_all_goes_on_under_the_new_name(template: Path, tmp_path: Path) -> None:
    """The main job, its checkpoint in an evaluation, and the tests of the package."""
    environment = {"PYTHONPATH": str(template / "src")}
    done = run_apart(template, "rename", NEW, "--package", OWN, project=template, **environment)
    assert done.code == 0, done.err
    done = run_apart(tmp_path, "train", "+experiment=digits", "budget=2epochs", project=template, **environment)
    assert done.code == 0, done.err
    assert f"{NEW}.data.Digits" in (done.run / "config.yaml").read_text()
    checkpoint = str(done.run / "checkpoints/last.ckpt")
    tested = run_apart(tmp_path, "evaluate", checkpoint, project=template, **environment)
    assert tested.code == 0, tested.err
    assert yaml.safe_load(tested.out)["test/acc"] == pytest.approx(done.result["metrics"]["test/acc"])
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"tests/{NEW}"]
    tests = subprocess.run(command, cwd=template, env=os.environ | environment, capture_output=True, text=True)
    assert tests.returncode == 0, tests.stdout
