"""Processes that torchrun has started agree on things: forks of this one, with the variables and the store it gives."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from commands import wait_for
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed import TCPStore  # pyright: ignore

from metronome.app.config import torchrun as layout
from metronome.app.errors.lost import lost_company
from metronome.app.errors.messages import cannot_go_on, mistake
from metronome.app.hosts import company as of_company
from metronome.app.hosts import keepers as of_keepers
from metronome.app.hosts import sending, watch
from metronome.app.hosts.company import Company
from metronome.app.hosts.copies import check_copies
from metronome.app.hosts.folder import agreed_folder
from metronome.app.hosts.keepers import keepers_of
from metronome.app.hosts.told import RunTold, agents_of, keep_agents, merged
from metronome.app.storage import mirroring
from metronome.runs.going_on import Asked, choose_folder
from metronome.runs.names import CONFIG_FILE, RESULT_FILE
from metronome.units import InputError, RunFailed


class Torchrun:
    """Starts processes as torchrun does; one that fails leaves its exit code."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.starts = folder, 0
        self.store = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=30), False)

    def __call__(self, work: Callable[[Company], Any], hosts: int = 2, on_each: int = 1) -> list[Any]:
        self.starts += 1
        pids = [self._fork(work, rank, hosts, on_each) for rank in range(hosts * on_each)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        files = [self._file(rank) for rank in range(len(pids))]
        return [json.loads(file.read_text()) if code == 0 else code for code, file in zip(codes, files, strict=True)]

    def _file(self, rank: int) -> Path:
        return self.folder / f"answer_{self.starts}_{rank}"

    def _fork(self, work: Callable[[Company], Any], rank: int, hosts: int, on_each: int) -> int:
        if pid := os.fork():
            return pid
        code = 1
        try:
            host = rank // on_each
            os.environ |= {
                "RANK": str(rank), "WORLD_SIZE": str(hosts * on_each), "GROUP_RANK": str(host),
                "GROUP_WORLD_SIZE": str(hosts), "LOCAL_RANK": str(rank % on_each), "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(self.store.port), "TORCHELASTIC_RUN_ID": "none",
                "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_ERROR_FILE": f"/tmp/agent/of_{host}/0/0/error",
            }  # fmt: skip
            others = Company()
            self._file(rank).write_text(json.dumps(work(others)))
            others.part()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except (InputError, RunFailed) as error:
            print(error, file=sys.stderr, flush=True)
            code = 20 if isinstance(error, InputError) else 30
        except BaseException:
            traceback.print_exc()
        os._exit(code)


@pytest.fixture(name="torchrun")
def fixture_torchrun(tmp_path: Path) -> Torchrun:
    return Torchrun(tmp_path)


def test_the_first_decides_and_each_host_is_heard(torchrun: Torchrun) -> None:
    def work(others: Company) -> Any:
        seen = others.from_hosts(lambda: f"host {others.host}")
        return [others.first_says(lambda: {"seen": seen, "by": others.rank}), seen, len(os.environ["MASTER_PORT"]) > 0]

    told = {"seen": ["host 0", "host 1"], "by": 0}
    first, *others = torchrun(work, hosts=2, on_each=2)
    assert first == [told, ["host 0", "host 1"], True]
    assert others == [[told, [], True]] * 3


def test_what_takes_long_is_waited_for(torchrun: Torchrun) -> None:
    """A checkpoint of many gigabytes, say, that the first host fetches."""

    def work(others: Company) -> Any:
        of_company._SECONDS = 0.01  # in this process: for all to come; they are here
        return others.first_says(lambda: time.sleep(0.2) or "fetched")

    assert torchrun(work) == ["fetched"] * 2


def test_processes_of_an_earlier_start_are_not_taken_for_living_ones(torchrun: Torchrun) -> None:
    torchrun.store.set("metronome/here/1", "of a dead one")
    port = torchrun.store.port

    def work(others: Company) -> Any:
        return [others.first_says(lambda: "here"), int(os.environ["MASTER_PORT"]) != port,
                os.environ["TORCHELASTIC_USE_AGENT_STORE"]]  # fmt: skip

    for _ in range(2):
        assert torchrun(work) == [["here", True, "False"]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("host", [0, 1, 2])
def test_one_tells_its_mistake_and_all_end(torchrun: Torchrun, host: int, capfd: pytest.CaptureFixture) -> None:
    def work(others: Company) -> Any:
        def look() -> None:
            if others.host == host:
                raise InputError("a mistake")

        if host == 0:
            return others.first_says(look)
        others.from_hosts(look)
        return others.first_says(lambda: "further")

    assert torchrun(work, hosts=3) == [20 if number == host else 2 for number in range(3)]
    assert capfd.readouterr().err.count("a mistake") == 1


@pytest.mark.slow
def test_hosts_that_differ_are_told(torchrun: Torchrun, capfd: pytest.CaptureFixture) -> None:
    """In one line, before the first step of one waits for the other's."""

    def work(others: Company, differs: bool = False) -> None:
        mine = ["a=1", "b=2"] if others.host < 2 else ["b=3" if differs else "b=2", "a=1"]
        others.check_alike(mine, "type the same")

    assert torchrun(work, hosts=3, on_each=2) == [None] * 6
    assert torchrun(lambda others: work(others, True), hosts=3) == [20, 2, 2]
    assert capfd.readouterr().err.count("host 2 has b=3 where host 0 has b=2; type the same") == 1


def test_a_storage_that_cannot_be_written_to_is_told_once(
    torchrun: Torchrun, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(others: Company) -> None:
        monkeypatch.setattr(mirroring, "company", lambda: others)  # in this process
        with mirroring.stored("file:///proc/nothing", tmp_path, goes_on=False, in_sweep=False):
            others.first_says(lambda: "further")

    assert torchrun(work) == [20, 2]
    assert capfd.readouterr().err.count("cannot be written to") == 1


@pytest.mark.parametrize(("folders", "keepers"), [("aaa", [0, 0, 0]), ("abb", [0, 1, 1])])
def test_who_shares_a_disk(
    torchrun: Torchrun, tmp_path: Path, folders: str, keepers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_keepers, "_PAUSES", (0.0,))
    for name in set(folders):
        (tmp_path / name).mkdir()
    found = torchrun(lambda others: keepers_of(others, tmp_path / folders[others.host]), hosts=3)
    assert found == [keepers] * 3
    assert not list(tmp_path.glob("*/.host_*"))


def a_run(folder: Path, *overrides: str, checkpoint: bool = True) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / CONFIG_FILE).write_text(json.dumps({"experiment": "x", "overrides": list(overrides)}))
    if checkpoint:
        (folder / "checkpoints/last.ckpt").touch()
    return folder


@pytest.mark.slow
def test_a_run_is_found_on_any_disk(torchrun: Torchrun, tmp_path: Path) -> None:
    """With resume=auto the unfinished one that any host has; without, the one that the same torchrun has begun."""
    for host in (0, 1):
        (tmp_path / f"disk_{host}").mkdir()
    a_run(tmp_path / "disk_1/runs/x/older", "a=1")
    (a_run(tmp_path / "disk_0/runs/x/done", "a=1") / RESULT_FILE).write_text('{"status": "finished"}')

    def folder(ask: Asked) -> Any:
        def work(others: Company) -> str:
            os.chdir(tmp_path / f"disk_{others.host}")
            new = Path("runs/x/new")
            return agreed_folder(others, ask, new, lambda there: choose_folder(ask, new, there))

        return torchrun(work)

    assert folder(Asked(["a=1"], resume=True)) == ["runs/x/older"] * 2
    assert folder(Asked(["a=1"])) == ["runs/x/new"] * 2
    keep_agents(a_run(tmp_path / "disk_1/runs/x/begun", "b=1", checkpoint=False), ["elsewhere:of_7", _agent(1)])
    assert folder(Asked(["a=1"])) == ["runs/x/begun"] * 2
    assert folder(Asked(["a=1"], checkpoint="some.ckpt")) == ["runs/x/new"] * 2, "it has done nothing"


def _agent(host: int) -> str:
    import socket

    return f"{socket.gethostname()}:of_{host}"


@pytest.mark.slow
def test_files_are_sent_to_those_that_want_them(
    torchrun: Torchrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_CHUNK", 1_000)
    for host in range(3):
        (tmp_path / str(host)).mkdir()
    content = {"a/last.ckpt": os.urandom(4_321), "empty": b"", "other": b"x" * 1_000}
    for name, data in content.items():
        (tmp_path / "1" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "1" / name).write_bytes(data)
    wanted = {0: ["a/last.ckpt", "empty"], 2: ["other", "a/last.ckpt"]}

    def work(others: Company) -> None:
        sending.send(others, tmp_path / "1", 1, wanted, tmp_path / str(others.host))

    assert torchrun(work, hosts=3) == [None] * 3
    for host, names in wanted.items():
        files = [file for file in (tmp_path / str(host)).rglob("*") if file.is_file()]
        assert {str(file.relative_to(tmp_path / str(host))): file.read_bytes() for file in files} == {
            name: content[name] for name in names
        }
    (tmp_path / "0/a/last.ckpt").unlink()
    (tmp_path / "0/a").rmdir()
    (tmp_path / "0/a").touch()  # where a folder should be
    assert torchrun(work, hosts=3)[:1] == [30]


def test_a_run_has_come_as_far_as_any_host_has_seen() -> None:
    one = RunTold(Path("r"), ["a=1"], None, 5, {Path("r/last.ckpt"): 3})
    other = RunTold(Path("r"), ["a=1"], "finished", 4, {Path("r/last.ckpt"): 7, Path("r/best.ckpt"): 2}, True)
    nothing = RunTold(Path("r"))
    (run,) = merged([nothing, one, other])
    assert run == RunTold(
        Path("r"), ["a=1"], "finished", 5, {Path("r/last.ckpt"): 7, Path("r/best.ckpt"): 2}, is_ours=True
    )
    assert RunTold.from_dict(json.loads(json.dumps(one.as_dict()))) == RunTold(
        Path("r"), ["a=1"], None, 5, {Path("r/r/last.ckpt"): 3}
    ), "files are told by their names in the folder"
    assert agents_of(Path("nowhere")) == []


def test_a_host_that_falls_silent_ends_the_others(
    torchrun: Torchrun, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(watch, "_SECONDS", 0.3)
    monkeypatch.setattr(watch, "_PAUSE", 0.01)
    monkeypatch.setattr(of_company, "Watch", lambda host, *rest: watch.Watch(host, *rest) if host == 0 else None)

    def work(others: Company) -> None:
        if others.host == 0:
            wait_for(lambda: False, 30)

    assert torchrun(work) == [1, None]
    assert "error: a process of this run is gone, host 1 has been silent for" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("sizes", "typed", "flags", "comes_to"),
    [
        ((2, 3, 6), (), {"devices": 1, "num_nodes": 1}, {"devices": 2, "num_nodes": 3}),
        ((2, 3, 6), ("trainer=ddp_cpu",), {"devices": 2}, {"devices": 2, "num_nodes": 3}),
        ((2, 1, 2), ("trainer.devices=auto",), {"devices": "auto"}, {"devices": 2, "num_nodes": 1}),
        ((2, 3, 6), ("trainer.devices=4",), {"devices": 4}, "trainer.devices=4, and torchrun was started with "
                                                          "--nproc-per-node 2"),
        ((2, 3, 6), ("trainer.num_nodes=2",), {"num_nodes": 2}, "leave out trainer.num_nodes"),
        ((2, 2, 3), (), {}, "torchrun has started 3 processes on 2 hosts, not as many on each"),
    ],
)  # fmt: skip
def test_torchrun_says_how_many_devices_there_are(
    monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...], typed: tuple[str, ...], flags: dict[str, Any],
    comes_to: dict[str, Any] | str,
) -> None:  # fmt: skip
    before = dict(flags)
    layout.follow_torchrun(flags, typed)
    assert flags == before, "without torchrun all stays"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for name, size in zip(("LOCAL_", "GROUP_", ""), sizes, strict=True):
        monkeypatch.setenv(f"{name}WORLD_SIZE", str(size))
    if isinstance(comes_to, str):
        with pytest.raises(InputError, match=comes_to):
            layout.follow_torchrun(flags, typed)
    else:
        layout.follow_torchrun(flags, typed)
        assert flags == comes_to


@pytest.mark.parametrize(
    ("error", "where"),
    [
        ("[/gloo/transport/tcp/pair.cc:537] Read error [10.77.0.2]:8383: Connection reset by peer", ", at 10.77.0.2"),
        ("[/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234", ""),
        ("[/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1800000ms for recv operation", ""),
        ("[/gloo/tcp/pair.cc:152] timed out connecting: Connection refused, remote=[10.0.0.1]:60$1", ", at 10.0.0.1"),
        ("NCCL error: remote process exited or there was a network error, NCCL version 2.27", ""),
    ],
)
def test_a_lost_process_is_told_in_one_line(error: str, where: str) -> None:
    line = f"a process of this run is gone{where}; the same command with resume=auto goes on from the last checkpoint"
    assert lost_company(RuntimeError(error)) == mistake(RuntimeError(error)) == line
    assert cannot_go_on(RuntimeError(error))


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 cannot be multiplied"), RuntimeError("my socket of wool"), OSError("gloo")]
)
def test_other_errors_are_no_lost_process(error: Exception) -> None:
    assert lost_company(error) is None


def test_hosts_without_a_disk_copy_whole_checkpoints_alone() -> None:
    check_copies(DDPStrategy())
    with pytest.raises(
        InputError, match="with ModelParallelStrategy a checkpoint has parts of all of them; put the run"
    ):
        check_copies(ModelParallelStrategy())
