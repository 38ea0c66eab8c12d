"""What is relied on in Lightning's private parts is there, and is what it was when it was last read."""

import json
import os

import lightning
import lightning_contract
import pytest

CONTRACT = json.loads(lightning_contract.CONTRACT.read_text())
METHODS = CONTRACT["imported"] | CONTRACT["methods"]
HERE = lightning_contract.collect()
FOUND = HERE["imported"] | HERE["methods"]
# In a user's environment a later release of the same line may differ in what does not matter; the scheduled job tells.
IS_STRICT = lightning.__version__ == CONTRACT["lightning"] or "METRONOME_NEWEST_LIGHTNING" in os.environ


@pytest.mark.parametrize("part", ["imported", "methods", "attributes"])
def test_the_contract_is_whole(part: str) -> None:
    """It names all that our code relies on, and nothing else."""
    missing = CONTRACT[part].keys() ^ HERE[part].keys()
    assert not missing, f"{missing}; write it anew with: python tests/support/lightning_contract.py"


@pytest.mark.parametrize("name", METHODS)
def test_a_method(name: str) -> None:
    before, now, see = METHODS[name], FOUND[name], METHODS[name].get("see", "training/lightning_private.py")
    hint = f"{name} has changed since Lightning {CONTRACT['lightning']}; look at src/metronome/{see}"
    assert now["signature"] == before["signature"], hint
    if IS_STRICT and "digest" in before and name in CONTRACT["methods"]:
        assert now["digest"] == before["digest"], hint


@pytest.mark.parametrize("name", CONTRACT["attributes"])
def test_an_attribute(name: str) -> None:
    files = ", ".join(f"src/metronome/{file}" for file in CONTRACT["attributes"][name])
    assert lightning_contract.made_in(name), f"Lightning has no {name} any more; look at {files}"


def test_a_change_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above prove nothing."""
    from lightning.pytorch.loops.fit_loop import _FitLoop

    def run(self: object, other: int) -> None: ...

    monkeypatch.setattr(_FitLoop, "run", run)
    name = "lightning.pytorch.loops.fit_loop._FitLoop.run"
    changed = lightning_contract.collect()["methods"][name]
    assert {changed[part] != METHODS[name][part] for part in ("signature", "digest")} == {True}
    assert METHODS[name]["see"] == "training/loops/fit.py: FitLoop.run"
