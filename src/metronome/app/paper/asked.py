"""What is stated of devices that are not here: the keys of `paper`, read and checked."""

import re
from dataclasses import dataclass
from math import inf
from typing import Any

from metronome.app.errors.nearest import did_you_mean
from metronome.units import InputError
from metronome.units.paper.collectives import Links
from metronome.units.paper.quantities import above_zero, amount, number, whole

KEYS = (
    "num_samples", "devices", "devices_per_host", "sharding", "tensor_parallel", "memory", "reserve", "step", "flops",
    "speed", "bandwidth", "latency", "all_reduce", "host_bandwidth", "overlap", "storage", "all_storage", "background",
    "copy", "save_every", "failures", "host_failures", "restart",
)  # fmt: skip


@dataclass(frozen=True)
class Paper:
    """Attributes:
    num_samples: to train on; None: as many as the data have.
    devices, devices_per_host, tensor_parallel: how many.
    sharded: whether weights are shared out over the devices that share out a batch.
    memory: bytes of one device; `room` are those of them that a training may take.
    reserve: the part of it that is left free.
    step: seconds of both passes of a micro-batch; None where it is counted or measured.
    flops: floating-point operations a second that a device reaches.
    speed: of a device, in times this machine's.
    links, host_links: over all devices, and within a host.
    overlap: whether devices send while they compute.
    storage, all_storage, copy: bytes a second.
    background: whether files are written while training goes on.
    save_every: seconds between saves; None: the best.
    failures: in an hour, of all that is there.
    restart: seconds.
    words: of failures, how they were stated.
    """

    num_samples: int | None
    devices: int
    devices_per_host: int
    tensor_parallel: int
    sharded: bool
    memory: float
    reserve: float
    step: float | None
    flops: float | None
    speed: float
    links: Links
    host_links: Links
    overlap: bool
    storage: float
    all_storage: float
    copy: float
    background: bool
    save_every: float | None
    failures: float
    restart: float
    words: str

    @property
    def hosts(self) -> int:
        return -(-self.devices // self.devices_per_host)

    @property
    def data_parallel(self) -> int:
        return self.devices // self.tensor_parallel

    @property
    def room(self) -> float:
        return self.memory * (1 - self.reserve)

    @property
    def between_failures(self) -> float:
        """Seconds, in the mean."""
        return 3_600 / self.failures if self.failures else inf


def read(paper: Any, trainer: dict[str, Any]) -> Paper:
    """What is stated of the devices.

    Args:
        paper: the group of the configuration, resolved.
        trainer: the group of that name, of which layout and strategy are taken where nothing else is stated.

    Raises:
        InputError: for what makes no sense.
    """
    if not isinstance(paper, dict):
        raise InputError("paper takes one of the files in conf/paper: paper=cluster")
    for key in paper:
        if key not in KEYS:
            near = did_you_mean(str(key), KEYS, sign="paper.") or f"there are: {', '.join(KEYS)}"
            raise InputError(f"no key '{key}' in paper; {near}")
    if missing := [key for key in KEYS if key not in paper]:
        raise InputError(
            f"paper has no {', '.join(missing)}; begin a file of your own with `defaults: [cluster, _self_]`"
        )
    devices, per_host = (
        _devices(paper["devices"], trainer),
        whole("paper.devices_per_host", paper["devices_per_host"], "devices", "8"),
    )
    per_host = min(per_host, devices)
    sharded, of_strategy = _strategy(trainer.get("strategy"))
    if paper["sharding"] is not None:
        sharded = _one_of("paper.sharding", paper["sharding"], ("none", "full")) == "full"
    parallel = paper["tensor_parallel"] if paper["tensor_parallel"] is not None else of_strategy
    parallel = whole("paper.tensor_parallel", parallel, "devices", "8")
    if devices % parallel or per_host % parallel:
        what = f"{devices:,} devices" if devices % parallel else f"{per_host:,} devices of a host"
        raise InputError(f"paper.tensor_parallel={parallel} does not divide the {what}; use a divisor of them")
    if paper["step"] is not None and paper["flops"] is not None:
        raise InputError(
            "paper.step and paper.flops are two ways to say how long a micro-batch takes; give one of them"
        )
    tree = _one_of("paper.all_reduce", paper["all_reduce"], ("ring", "tree")) == "tree"
    latency = amount("paper.latency", paper["latency"], "seconds")
    of_device = number("paper.failures", paper["failures"], "number of failures an hour", "2e-5")
    of_host = number("paper.host_failures", paper["host_failures"], "number of failures an hour", "1e-4")
    hosts = -(-devices // per_host)
    parts = [f"{devices:,} devices x {of_device:g}"] if of_device else []
    parts += [f"{hosts:,} hosts x {of_host:g}"] if of_host else []
    return Paper(
        num_samples=_or_none(paper["num_samples"], lambda given: whole("paper.num_samples", given, "samples", "1e12")),
        devices=devices,
        devices_per_host=per_host,
        tensor_parallel=parallel,
        sharded=sharded,
        memory=above_zero("paper.memory", paper["memory"], "bytes"),
        reserve=_percent("paper.reserve", paper["reserve"]),
        step=_or_none(paper["step"], lambda given: above_zero("paper.step", given, "seconds")),
        flops=_or_none(paper["flops"], lambda given: above_zero("paper.flops", given, "flop/s")),
        speed=number("paper.speed", paper["speed"], "number above 0", "100", above=0),
        links=Links(above_zero("paper.bandwidth", paper["bandwidth"], "bytes/s"), latency, tree),
        host_links=Links(above_zero("paper.host_bandwidth", paper["host_bandwidth"], "bytes/s"), latency),
        overlap=_yes("paper.overlap", paper["overlap"]),
        storage=above_zero("paper.storage", paper["storage"], "bytes/s"),
        all_storage=above_zero("paper.all_storage", paper["all_storage"], "bytes/s"),
        copy=above_zero("paper.copy", paper["copy"], "bytes/s"),
        background=_yes("paper.background", paper["background"]),
        save_every=_or_none(paper["save_every"], lambda given: above_zero("paper.save_every", given, "seconds")),
        failures=devices * of_device + hosts * of_host,
        restart=amount("paper.restart", paper["restart"], "seconds"),
        words=" + ".join(parts),
    )


def _devices(stated: Any, trainer: dict[str, Any]) -> int:
    if stated is not None:
        return whole("paper.devices", stated, "devices", "1024")
    found = 1
    for flag in ("devices", "num_nodes"):
        given = trainer.get(flag, 1)
        if isinstance(given, bool) or not str(given).isdecimal() or int(given) < 1:
            raise InputError(
                f"how many devices trainer.{flag}={given} are is not known on paper; write paper.devices=1024"
            )
        found *= int(given)
    return found


def _strategy(strategy: Any) -> tuple[bool, int]:
    """Whether a strategy shards, and over how many devices it shares out layers."""
    name = str(strategy.get("_target_", "")) if isinstance(strategy, dict) else str(strategy)
    sharded = any(word in name.lower() for word in ("fsdp", "sharded", "modelparallel", "deepspeed"))
    parallel = strategy.get("tensor_parallel_size") if isinstance(strategy, dict) else None
    return sharded, parallel if isinstance(parallel, int) and not isinstance(parallel, bool) else 1


def _percent(key: str, given: Any) -> float:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?)\s*%", str(given).strip())
    if found is None or float(found[1]) >= 100:
        raise InputError(f"{key}={given} is no part below 100%; write e.g. {key}=10%")
    return float(found[1]) / 100


def _one_of(key: str, given: Any, words: tuple[str, ...]) -> str:
    if given not in words:
        raise InputError(f"{key}={given} is neither {' nor '.join(words)}")
    return given


def _yes(key: str, given: Any) -> bool:
    if not isinstance(given, bool):
        raise InputError(f"{key}={given} is neither true nor false")
    return given


def _or_none(given: Any, read: Any) -> Any:
    return None if given is None else read(given)
