"""Rules on time, memory and the machine."""

from metronome.advice.advice import NOTE, SLOW, Advice
from metronome.advice.facts import Facts, number
from metronome.advice.flags import batch_flags, power_of_two
from metronome.runs.nested import dig

# Of a step, for data; beside other work, where any part of a step may have waited for a core.
WAITS, WAITS_BESIDE_OTHERS = 0.3, 0.6
VALIDATES = 0.3  # of the time
OVERHEAD = 0.6  # of a pass through the network
PREEMPTED = 5.0  # times a second that a process has lost its core, where the machine is busy
LEAST_SECONDS = 2.0  # of a training of which time is worth a word


def waits_for_data(facts: Facts) -> Advice | None:
    """A good part of each step is spent waiting for its batch (PyTorch, Performance Tuning Guide: asynchronous data
    loading)."""
    data, step = facts.step_ms.get("data", 0.0), sum(facts.step_ms.values())
    waits = WAITS_BESIDE_OTHERS if _is_preempted(facts) else WAITS
    if not step or data < waits * step or facts.seconds("train") < LEAST_SECONDS:
        return None
    workers, cores = int(number(dig(facts.config, "data.num_workers")) or 0), int(facts.watched.get("cores") or 1)
    more = max(2, min(8, cores)) if workers == 0 else 2 * workers
    flags = f"data.num_workers={more}" if more > workers and workers < 2 * cores else ""
    words = f"read ahead in {more} processes" if flags else "cheaper reading: smaller files, less decoding, local disk"
    return Advice(
        "steps wait for data",
        f"{data:.3g} of {step:.3g} ms a step ({data / step:.0%}), {workers} processes read ahead",
        words,
        flags,
        SLOW + 80 * data / step + 90 * (data > 0.5 * step),
    )


def validates_long(facts: Facts) -> Advice | None:
    """The validation takes a good part of the time (Lightning, Trainer: check_val_every_n_epoch)."""
    train, val = facts.seconds("train"), facts.seconds("validation")
    if train + val < LEAST_SECONDS or val < VALIDATES * (train + val):
        return None
    factor = max(2, round(val / train / 0.1)) if train > 0 else 10
    every = dig(facts.config, "trainer.check_val_every_n_epoch")
    interval = dig(facts.config, "trainer.val_check_interval")
    if every is None and isinstance(interval, int) and not isinstance(interval, bool):
        flags = f"trainer.val_check_interval={interval * factor}"
    elif isinstance(interval, float) and interval < 1:
        flags = f"trainer.val_check_interval={min(1.0, round(interval * factor, 2))}"
    else:
        most = max(1, facts.epochs // 5)
        flags = f"trainer.check_val_every_n_epoch={min(most, int(every or 1) * factor)}" if most > 1 else ""
    return Advice(
        "validation takes much of the time",
        f"{val:.3g} of {train + val:.3g} s ({val / (train + val):.0%})",
        "validate less often, or larger batches there (data.eval_batch_size)",
        flags,
        SLOW + 40,
    )


def overhead(facts: Facts) -> Advice | None:
    """A pass through the network takes hardly longer for more samples (PyTorch, Performance Tuning Guide: larger
    batches): found from the times of two passes of different sizes, of the gradients made beside the training."""
    fixed, each = (number(facts.watched.get(name)) for name in ("pass_ms", "sample_ms"))
    micro, size, scale = facts.micro_batch_size, facts.batch_size, facts.gradients.noise_scale
    if fixed is None or each is None or not micro or not size or facts.seconds("train") < LEAST_SECONDS:
        return None
    if _is_preempted(facts):
        return None  # the times of single passes say little
    share = fixed / (fixed + each * micro) if fixed + each * micro > 0 else 0.0
    if share < OVERHEAD or facts.batch_grows or facts.samples is None:
        return None
    if facts.accumulate > 1:
        return Advice(
            "passes are dominated by overhead",
            f"{share:.0%} of a pass of {micro} samples would be there for one, too",
            "fewer, larger micro-batches: the same steps",
            f"trainer.accumulate_grad_batches={max(1, facts.accumulate // 2)}",
            SLOW + 20,
        )
    if scale is None or scale.low < 2 * size:
        return None
    larger = power_of_two(min(4 * size, fixed / max(each, 1e-9)), min(scale.value, facts.samples))
    if larger < 2 * size:
        return None
    longer = (fixed + each * larger) / (fixed + each * size)
    return Advice(
        "steps are dominated by overhead",
        f"{share:.0%} of a pass of {micro} samples would be there for one, too",
        f"batches of {larger:,}: such a step takes {longer:.2g} times as long, and fewer are needed",
        batch_flags(facts, larger, scale.value),
        SLOW + 20,
    )


def finer_than_needed(facts: Facts) -> Advice | None:
    """Accumulation saves memory and costs time: where a GPU has room for twice the micro-batch, it is higher than need
    be (Lightning, Trainer: accumulate_grad_batches)."""
    peak, total = number(facts.result.get("peak_memory_bytes")), number(facts.watched.get("device_memory_bytes"))
    if not peak or not total or facts.accumulate < 2 or 2 * peak > 0.8 * total:
        return None
    fewer = facts.accumulate
    while fewer > 1 and peak * facts.accumulate / (fewer / 2) <= 0.8 * total:
        fewer = -(-fewer // 2)
    return Advice(
        "accumulation is higher than memory needs",
        f"{_gib(peak)} of {_gib(total)} GiB at the most, in {facts.accumulate} micro-batches",
        "fewer, larger micro-batches: the same steps, in less time",
        f"trainer.accumulate_grad_batches={fewer}",
        SLOW + 10,
    )


def idle_memory(facts: Facts) -> Advice | None:
    """A GPU with most of its memory free, where a larger batch is worth it: below the noise scale."""
    peak, total = number(facts.result.get("peak_memory_bytes")), number(facts.watched.get("device_memory_bytes"))
    scale, size = facts.gradients.noise_scale, facts.batch_size
    if not peak or not total or peak > 0.25 * total or facts.accumulate > 1 or scale is None or not size:
        return None
    if scale.low < 2 * size or facts.batch_grows or facts.samples is None:
        return None
    larger = power_of_two(4 * size, min(scale.value, facts.samples))
    return Advice(
        "most of the memory is idle",
        f"{_gib(peak)} of {_gib(total)} GiB at the most; noise scale {scale}, batches of {size:,}",
        "larger batches: fewer steps to the same loss",
        batch_flags(facts, larger, scale.value),
        NOTE + 10,
    )


def _is_preempted(facts: Facts) -> bool:
    """Whether others have often taken the core, as far as that was counted."""
    preempted, wall = (number(facts.watched.get(name)) for name in ("preempted", "wall_seconds"))
    return facts.on_cpu and preempted is not None and bool(wall) and preempted >= PREEMPTED * (wall or 0.0)


def machine_is_busy(facts: Facts) -> Advice | None:
    """Processor time against the clock: a thread that computes has as much of both, unless others have the core."""
    cpu, wall = (number(facts.watched.get(name)) for name in ("cpu_seconds", "wall_seconds"))
    threads = int(number(facts.watched.get("threads")) or 1)
    data, step = facts.step_ms.get("data", 0.0), sum(facts.step_ms.values())
    if not facts.on_cpu or cpu is None or not wall or wall < LEAST_SECONDS or data > 0.2 * step:
        return None
    if cpu / wall > 0.6 or facts.devices > 1:  # processes wait for one another
        return None
    if facts.watched.get("preempted") is not None and not _is_preempted(facts):
        return None  # it waits for something else: a disk, a callback of its own
    flags = "num_threads=1" if threads > 1 else ""
    return Advice(
        "the machine is busy with other work",
        f"{cpu:.3g} s of processor time in {wall:.3g} s, {threads} threads",
        "times of this run say little" + ("; one thread waits for no other" if flags else ""),
        flags,
        NOTE + 5,
    )


def threads_that_do_not_pay(facts: Facts) -> Advice | None:
    """Threads have to meet in each operation, which takes longer than the operations of a small network (PyTorch,
    Performance Tuning Guide: CPU threads)."""
    cpu, wall = (number(facts.watched.get(name)) for name in ("cpu_seconds", "wall_seconds"))
    threads, passes = int(number(facts.watched.get("threads")) or 1), facts.step_ms.get("forward_backward")
    if not facts.on_cpu or threads < 2 or cpu is None or not wall or passes is None or facts.devices > 1:
        return None
    if cpu < 1.3 * wall or passes / facts.accumulate > 3.0 or wall < LEAST_SECONDS:
        return None
    return Advice(
        "more threads than so small a network can use",
        f"{passes:.2g} ms forward and backward, {cpu / wall:.1f} cores busy with {threads} threads",
        "one thread: often as fast, and it leaves the other cores to other runs",
        "num_threads=1",
        NOTE + 15,
    )


def _gib(number_of_bytes: float) -> str:
    return f"{number_of_bytes / 2**30:.3g}"
