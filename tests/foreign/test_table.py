"""Foreign code does what it does with stock Lightning, or a line says why not; and the README says what comes out."""

import pytest
from judging import judge
from stock import Case
from table import KINDS, README, cases, table_of, written

ALL = cases()
QUICK = [case for case in ALL if case.quick]


@pytest.mark.parametrize("case", QUICK, ids=lambda case: f"{case.kind}-{case.run.__name__}")
def test_a_few(case: Case) -> None:
    verdict = judge(case)
    assert not verdict.failures
    assert table_of([verdict]).splitlines()[-1] in written().splitlines(), "run tests/foreign/table.py --write"


@pytest.mark.slow
def test_the_table_is_what_comes_out() -> None:
    verdicts = [judge(case) for case in ALL]
    assert [failure for verdict in verdicts for failure in verdict.failures] == []
    assert written().strip() == table_of(verdicts).strip(), "run tests/foreign/table.py --write"


def test_the_cases_know_nothing_of_this_project() -> None:
    files = [README.parent / "stock.py", *README.parent.glob("cases_of_*.py")]
    assert len(files) == len(KINDS) + 1
    assert not [path.name for path in files if "metronome" in path.read_text()]


def test_each_case_once() -> None:
    rows = [(case.kind, case.name) for case in ALL]
    assert len(rows) == len(set(rows))
    assert {case.kind for case in ALL} == set(KINDS)
    assert all(not case.right or case.why for case in ALL), "say why stock Lightning is wrong"
    assert len(written().splitlines()) >= len(ALL)
