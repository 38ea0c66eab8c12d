"""In which order the jobs of a sweep are made, and which job a run is."""

from pathlib import Path

from metronome.runs.order import place_in, read_order, write_order

JOBS = [["+study=x", "seed=1", "a=2"], ["+study=x", "seed=0", "a=2"], ["+study=x", "seed=0", "a=2", "b=true"]]


def test_the_place_of_a_run(tmp_path: Path) -> None:
    write_order(tmp_path, 0, JOBS)
    order = read_order(tmp_path)
    for place, job in enumerate(JOBS, 1):
        assert place_in(order, [*reversed(job), "trainer=cpu"]) == place, "the one that says most"
    assert place_in(order, ["+study=x", "seed=2", "a=2"]) is None


def test_where_there_is_none(tmp_path: Path) -> None:
    assert read_order(tmp_path) == []
    (tmp_path / "other").mkdir()
    (tmp_path / "other/order.json").write_text("[1, 2")
    assert read_order(tmp_path / "other") == []
