"""A training on devices that are not here: counted, measured and worked out; nothing is trained."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from omegaconf import DictConfig, OmegaConf

from metronome.app.config.build import build_data, build_trainer, choose_budget, plan_training
from metronome.app.config.foreign import give_groups
from metronome.app.paper.asked import Paper, read
from metronome.app.paper.counting import Counted, count
from metronome.app.paper.order import Checked, check_order
from metronome.app.paper.simulation import Simulated, simulate
from metronome.data import DataModule
from metronome.units import BatchSchedule, Duration, InputError, Plan, share_size
from metronome.units.paper.collectives import Exchange, of_gradients, of_layers, of_shards
from metronome.units.paper.memory import Layout, Resident, largest_that_fits, resident
from metronome.units.paper.saves import Saving, seconds_to_save

# Seconds of a micro-batch of so many samples, and of the rest of a step, with words on where they come from.
Clock = Callable[[int], tuple[float, float, str]]


@dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
        kept: whatever the micro-batch.
        work: activations and work space of a micro-batch; `fixed` of them whatever its size.
        batch: the device's whole share of a batch.
    """

    kept: Resident
    work: float
    fixed: float
    batch: float

    @property
    def total(self) -> float:
        return self.kept.total + self.work + self.batch


@dataclass(frozen=True)
class Time:
    """Seconds.

    Attributes:
        micro_batch, rest: both passes of one, and what a step takes beside them.
        how: where these come from, in words.
        exchange, layers: what is sent in a step: for gradients and weights, and for layers that are shared out.
        step: in all.
        steps: of the training; None where nothing ends it.
    """

    micro_batch: float
    rest: float
    how: str
    exchange: Exchange
    layers: Exchange
    step: float
    steps: int | None


@dataclass(frozen=True)
class Saves:
    """Attributes:
    bytes: of one checkpoint.
    seconds: to write it.
    writers: hosts that write at the same time.
    saving: what a save and a failure cost.
    every: seconds of training between two; infinite without failures.
    simulated: the same, failure by failure.
    """

    bytes: int
    seconds: float
    writers: int
    saving: Saving
    every: float
    simulated: Simulated | None


@dataclass(frozen=True)
class OnPaper:
    """All of it. `fits` is the largest micro-batch in the memory of a device, and `cut` the accumulation that follows,
    None where not one sample fits; `whole` what all devices would keep on one."""

    paper: Paper
    layout: Layout
    plan: Plan
    counted: Counted
    whole: Resident
    memory: Memory
    fits: int
    cut: int | None
    time: Time | None
    saves: Saves
    order: Checked | None
    notes: list[str]


def on_paper(config: DictConfig, overrides: list[str], clock_of: Callable[[DictConfig, int], Clock] | None) -> OnPaper:
    """The plan of a training on paper.

    Args:
        config: the whole configuration, with a group `paper`.
        overrides: what was typed.
        clock_of: measures the steps of micro-batches of about so many samples here; None: it is not wanted.

    Raises:
        InputError: for a layout that cannot be, or a training of which no step can be counted.
    """
    settings: Any = OmegaConf.to_container(config, resolve=True)
    give_groups(settings, OmegaConf.to_container(config, resolve=False), overrides)  # pyright: ignore
    choose_budget(settings, overrides)
    paper, notes = read(settings.pop("paper"), settings["trainer"]), []
    accumulate = settings["trainer"].get("accumulate_grad_batches", 1)
    make_plan = _planner(settings, paper)
    plan = make_plan(1 if accumulate == "auto" else accumulate)
    share = share_size(plan.batch_size, plan.devices, 0)
    counted = count(settings, plan.micro_batch_size if accumulate != "auto" else min(share, 16))

    def layout_of(parts: int) -> Layout:
        return Layout(paper.data_parallel, paper.tensor_parallel, paper.sharded, parts)

    fits, cut = _what_fits(counted, layout_of, share, paper.room)
    if accumulate == "auto":
        if cut is None:
            notes.append("not one sample fits: planned with micro-batches of one")
        plan = make_plan(cut or share)
    if plan.batch_size < plan.devices:  # each number below would hold, of devices that have nothing to do
        idle = plan.devices - plan.batch_size
        words = f"a batch of {plan.batch_size:,} is shared out over {plan.devices:,}"
        notes.append(f"{words}: {idle:,} get no sample; give data.batch_size={plan.devices} or more")
    layout = layout_of(plan.accumulate_grad_batches)
    memory = memory_of(counted, layout, plan.micro_batch_size, share)
    clock = _clock(paper, counted, plan, config, clock_of)
    time = None if clock is None else _time(paper, layout, plan, counted, clock(plan.micro_batch_size))
    return OnPaper(
        paper=paper,
        layout=layout,
        plan=plan,
        counted=counted,
        whole=resident(counted.weights, counted.buffers, Layout(1, 1, False, 1)),
        memory=memory,
        fits=fits,
        cut=cut,
        time=time,
        saves=_saves(paper, layout, counted, time),
        order=check_order(plan, settings),
        notes=notes,
    )


def _planner(settings: dict[str, Any], paper: Paper) -> Callable[[int], Plan]:
    """Makes the plan for an accumulation, with as many samples and devices as are stated."""
    flags = dict(settings["trainer"]) | {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}
    flags |= {"precision": None, "accumulate_grad_batches": 1}
    trainer = build_trainer(settings | {"trainer": flags, "callbacks": {}, "logger": {}}, [], on_this_machine=False)
    data = build_data(settings)
    if not isinstance(data, DataModule):
        if paper.num_samples is not None:
            raise InputError(
                f"paper.num_samples is for a DataModule of metronome.data, which has a batch size of its own; "
                f"{type(data).__name__} is none"
            )
        found = plan_training(trainer, data)
        if found is None:
            raise InputError("the training data have no length, so the training cannot be planned on paper")
        samples, schedule, drop_last = found.num_samples, found.series.schedule, found.drop_last
    else:
        known = data.known_num_samples() if paper.num_samples is None else paper.num_samples
        if known is None:
            data.prepare_data()
            known = data.num_samples
        samples, drop_last = known, data.drop_last
        schedule = BatchSchedule.of(data.batch_size, samples, data.batch_growth)
    budget = settings.get("budget")
    limits = [(settings["trainer"].get(f"max_{unit}"), unit) for unit in ("epochs", "steps")]
    budgets = [Duration.parse(f"{n} {unit}") for n, unit in limits if isinstance(n, int) and n != -1]

    def make(accumulate: int) -> Plan:
        return Plan.make(
            samples,
            schedule,
            devices=paper.data_parallel,
            accumulate_grad_batches=accumulate,
            drop_last=drop_last,
            limit_train_batches=trainer.limit_train_batches,
            budgets=[Duration.parse(budget)] if budget is not None else budgets,
        )

    return make


# ---- memory -----------------------------------------------------------------------------------------------------


def memory_of(counted: Counted, layout: Layout, micro_batch: int, share: int) -> Memory:
    """Of one device, with micro-batches of so many samples of its share of a batch."""
    kept = resident(counted.weights, counted.buffers, layout)
    work, other = _work(counted, layout, micro_batch), 1 if micro_batch > 1 else 2
    rate = (_work(counted, layout, other) - work) / (other - micro_batch)
    fixed = max(work - rate * micro_batch, 0.0)
    return Memory(kept, work, fixed, counted.sample_bytes * share)


def _work(counted: Counted, layout: Layout, samples: int) -> float:
    """Activations and work space, beside what is kept: in the passes or in the update, whichever takes more."""
    found = counted.passes(samples, layout.accumulate > 1)
    if layout.sharded and layout.data_parallel > 1:
        return max(found.without, found.update / layout.data_parallel)
    gradients = sum(weight.kept.bytes for weight in counted.weights if weight.trained)
    return max(found.with_gradients - gradients, found.update, 0)


def _what_fits(counted: Counted, layout_of: Callable[[int], Layout], share: int, room: float) -> tuple[int, int | None]:
    """The most samples of a micro-batch, and the accumulation that follows."""

    def needed(samples: int) -> float:
        layout = layout_of(-(-share // samples))
        kept = resident(counted.weights, counted.buffers, layout).total
        return kept + _work(counted, layout, samples) + counted.sample_bytes * share

    if needed(share) <= room:
        # Alone in its step it keeps no gradients of one before it; how much larger could the batch be?
        def alone(samples: int) -> float:
            kept = resident(counted.weights, counted.buffers, layout_of(1)).total
            return kept + _work(counted, layout_of(1), samples) + counted.sample_bytes * samples

        return largest_that_fits(room, alone, 10_000_000, share), 1
    fits = largest_that_fits(room, needed, share - 1, counted.looked_at) if share > 1 else 0
    return fits, -(-share // fits) if fits else None


# ---- time -------------------------------------------------------------------------------------------------------


def _clock(
    paper: Paper, counted: Counted, plan: Plan, config: DictConfig, clock_of: Callable[[DictConfig, int], Clock] | None
) -> Clock | None:
    if paper.step is not None:
        stated = paper.step
        return lambda samples: (stated, 0.0, "stated: paper.step")
    if paper.flops is not None:
        per_sample = counted.flops / paper.flops / paper.tensor_parallel
        return lambda samples: (per_sample * samples, 0.0, "counted operations / paper.flops")
    return None if clock_of is None else clock_of(config, plan.micro_batch_size)


def _time(paper: Paper, layout: Layout, plan: Plan, counted: Counted, found: tuple[float, float, str]) -> Time:
    micro_batch, rest, how = found
    if how.startswith("measured"):
        micro_batch, rest = (seconds / paper.speed / paper.tensor_parallel for seconds in (micro_batch, rest))
    cut = [weight.cut(paper.tensor_parallel) for weight in counted.weights]
    weights = sum(weight.kept.bytes for weight in cut)
    gradients = sum(weight.kept.bytes for weight in cut if weight.trained)
    k, devices = plan.accumulate_grad_batches, layout.data_parallel
    if layout.sharded:
        exchange = of_shards(weights, gradients, devices, paper.links, micro_batch, paper.overlap, k, counted.units + 1)
    else:
        exchange = of_gradients(gradients, devices, paper.links, micro_batch, paper.overlap)
    outputs = counted.passes(plan.micro_batch_size, k > 1).outputs
    layers = of_layers(outputs, layout.tensor_parallel, paper.host_links, k)
    step = k * micro_batch + rest + exchange.waited + layers.waited
    steps = plan.total_steps
    if plan.time_budget is not None:
        within = int(plan.time_budget.value / step)
        steps = within if steps is None else min(steps, within)
    return Time(micro_batch, rest, how, exchange, layers, step, steps)


# ---- saves ------------------------------------------------------------------------------------------------------


def _saves(paper: Paper, layout: Layout, counted: Counted, time: Time | None) -> Saves:
    bytes_ = counted.buffers + sum(w.kept.bytes + sum(s.bytes for s in w.state) for w in counted.weights)
    writers = paper.hosts if layout.sharded or layout.tensor_parallel > 1 else 1
    seconds = seconds_to_save(bytes_, writers, paper.storage, paper.all_storage)
    saving = Saving(seconds, 0.0, paper.restart, paper.between_failures)
    if paper.background:
        parts = layout.devices if layout.sharded else layout.tensor_parallel
        saving = replace(saving, held=min(bytes_ / parts / paper.copy, seconds), written=seconds)
    every = saving.best if paper.save_every is None else paper.save_every
    if time is not None:  # not within a step
        every = max(every, time.step)
    simulated = None
    if paper.failures > 0 and every < inf and saving.goodput(every) > 0.01:
        work = time.step * time.steps if time is not None and time.steps else 1_000 * every
        simulated = simulate(saving, every, work)
    return Saves(bytes_, seconds, writers, saving, every, simulated)
