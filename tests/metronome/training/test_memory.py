"""Out of memory: the step is undone and done again in finer pieces, and the result stays what it would have been."""

import gc
from collections.abc import Callable, Iterator
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import FEATURES, SEED, Data, Net, X, Y, fit, lbfgs, network, plain_loop, trainer, weights
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torchmetrics import MeanMetric

from metronome.training import Checkpoint
from metronome.training.batches.seeds import epoch_order
from metronome.training.guards.memory import is_out_of_memory
from metronome.units import InputError, RunFailed

AUTO: dict[str, Any] = {"accumulate_grad_batches": "auto"}
TWO: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork"}


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """Each attempt ends with a garbage collection, which looks through all that the tests have imported."""
    gc.freeze()
    yield
    gc.unfreeze()


def no_memory() -> None:
    """As CUDA says it."""
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8.00 GiB of which 1.00 GiB is "
        "free. See documentation for Memory Management"
    )


def no_memory_on_the_cpu() -> None:
    """More than any address space."""
    torch.empty(10**15)


class _Backward(torch.autograd.Function):
    """The identity, that runs out of memory on its way back."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        no_memory()


class Tally:
    """Counts what is not put back when a step is made again: no plain attribute of the module, but an object's."""

    failures = 0


class Short:
    """Mixed into a module: out of memory where a micro-batch has more than `limit` samples, from a step on.

    `where`: before anything is done; after all is done and logged; in the backward pass; after the second micro-batch,
    when the first was let through.
    """

    def __init__(
        self,
        limit: int = 10**9,
        *,
        since: int = 0,
        where: str = "before",
        fail: Callable[[], None] = no_memory,
        rank: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.limit, self.since, self.where, self.fail, self.rank = limit, since, where, fail, rank
        self.tally, self.part = Tally(), 0

    def on_before_zero_grad(self, optimizer: Any) -> None:
        self.part = 1  # gradients are zeroed between the first forward pass and its backward pass

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.part = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        this: Any = self
        self.part += 1
        is_short = len(batch[0]) > self.limit
        if self.where == "second":
            is_short = is_short and self.part == 2
        is_short = is_short and this.trainer.global_step >= self.since and self.rank in (None, this.global_rank)
        self.tally.failures += is_short
        if is_short and self.where == "before":
            self.fail()
        loss = super().training_step(batch, batch_idx)  # pyright: ignore
        if is_short and self.where in ("after", "second"):
            self.fail()
        return _Backward.apply(loss) if is_short else loss


class ShortNet(Short, Net):
    """The net of the plain loop."""


class Rich(Net):
    """BatchNorm, dropout, torchmetrics and every kind of logged value; keeps all that was logged."""

    def __init__(self, dropout: float = 0.2, record: Path | None = None) -> None:
        super().__init__(record=record)
        torch.manual_seed(1)
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 1)
        ).double()
        self.mean, self.largest = MeanMetric(), MeanMetric()
        self.seen: list[dict[str, float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, _ = batch
        self.log("sum", x[:, 0].sum(), on_step=True, on_epoch=True, reduce_fx="sum")
        self.log("max", x[:, 0].max(), on_step=True, on_epoch=True, reduce_fx="max")
        if batch_idx % 2:
            self.log("odd", x[:, 1].mean(), on_step=True, on_epoch=True)
        self.mean.update(x[:, 0])
        self.log("metric", self.mean, on_step=False, on_epoch=True)
        self.largest(x[:, 0].max())
        self.log("largest", self.largest, on_step=True, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        self.log("after", batch[0][:, 0].mean(), on_step=True, on_epoch=True)
        self.note()

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.note()

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.note()

    def note(self) -> None:
        self.seen.append({name: float(value) for name, value in self.trainer.callback_metrics.items()})

    def on_train_end(self) -> None:
        if self.record is not None:
            torch.save((state(self), self.seen), self.record.with_suffix(f".{self.global_rank}.pt"))


class ShortRich(Short, Rich):
    pass


class Cut(Callback):
    """Accumulation by hand: so many micro-batches from each of these steps on."""

    def __init__(self, accumulation: dict[int, int]) -> None:
        self.accumulation = accumulation

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        trainer.state_of_training.accumulate = self.accumulation.get(trainer.global_step, trainer.accumulate)


def state(module: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_equal(found: Any, expected: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=1e-12, atol=1e-15)


def assert_same(found: tuple[Any, Any], expected: tuple[Any, Any], is_bitwise: bool = True) -> None:
    """Weights, buffers and all logged values."""
    (state_found, seen_found), (state_expected, seen_expected) = found, expected
    assert state_found.keys() == state_expected.keys()
    relative, absolute = (0.0, 0.0) if is_bitwise else (1e-12, 1e-15)
    torch.testing.assert_close(state_found, state_expected, rtol=relative, atol=absolute)
    assert [seen.keys() for seen in seen_found] == [seen.keys() for seen in seen_expected]
    for values_found, values_expected in zip(seen_found, seen_expected, strict=True):
        # torchmetrics compute in float32
        assert values_found == (values_expected if is_bitwise else pytest.approx(values_expected, rel=1e-6))


def iterations(accumulation: dict[int, int], sizes: list[int]) -> int:
    """By hand: as many as the accumulation, but no empty ones."""
    total, pieces = 0, 1
    for step, size in enumerate(sizes):
        pieces = accumulation.get(step, pieces)
        total += min(pieces, size)
    return total


SIZES = [32, 32, 32, 32, 29] * 2

# ---- a step that runs out of memory ---------------------------------------------------------------------


@cache
def undisturbed(num_samples: int = 157) -> Net:
    """A training of two epochs with enough memory; what it logs is tested elsewhere."""
    return fit(data=Data(num_samples, batch_size=32), max_epochs=2)[0]


@pytest.mark.parametrize(
    ("where", "limit", "since", "pieces"),
    [
        ("before", 16, 0, 2),
        ("after", 16, 0, 2),
        ("backward", 10, 3, 4),  # in the middle of the first epoch, twice in one step
        ("after", 10, 5, 4),  # the first step of the second
        ("backward", 9, 4, 4),  # the last batch, of 29
        ("before", 1, 7, 32),  # five times, down to single samples
    ],
)
def test_the_result_stays(where: str, limit: int, since: int, pieces: int) -> None:
    expected, losses = plain_loop(epochs=2)
    model, run = fit(model=ShortNet(limit, since=since, where=where), **AUTO, max_epochs=2)
    assert model.tally.failures == pieces.bit_length() - 1  # each doubling once, never again
    assert_equal(weights(model), expected)
    assert_equal(model.step_losses, losses)
    assert_equal(model.logged, losses)
    assert_equal(model.epoch_means, undisturbed().epoch_means)
    assert_equal(model.val_losses, undisturbed().val_losses)
    assert run.accumulate == pieces
    largest = ceil(SIZES[since] / pieces)
    assert run.out_of_memory == [{"step": since + 1, "accumulate_grad_batches": pieces, "micro_batch_size": largest}]
    assert (run.global_step, run.counters.samples) == (10, 2 * 157)
    assert run.counters.iterations == iterations({since: pieces}, SIZES)


@pytest.mark.parametrize(
    ("where", "since"),
    [("before", 0), ("after", 0), ("after", 2), ("backward", 2), ("after", 5), ("backward", 5), ("after", 9)],
)
def test_bitwise_as_if_cut_so_from_that_step_on(where: str, since: int) -> None:
    """Dropout draws the same numbers; BatchNorm, torchmetrics and the logs know nothing of the attempts."""
    by_hand, reference = fit(model=Rich(), callbacks=[Cut({since: 4})], max_epochs=2)
    model, run = fit(model=ShortRich(10, since=since, where=where), **AUTO, max_epochs=2)
    assert model.tally.failures
    assert_same((state(model), model.seen), (state(by_hand), by_hand.seen))
    assert run.counters == reference.counters
    assert run.logged_metrics == reference.logged_metrics


@pytest.mark.parametrize("since", [0, 2, 5])
def test_in_the_second_micro_batch(since: int) -> None:
    """The first of them has logged, counted, and updated BatchNorm and torchmetrics."""
    cuts = {0: 2} if since else {}
    by_hand, reference = fit(model=Rich(), callbacks=[Cut(cuts | {since: 4})], max_epochs=2)
    model, run = fit(model=ShortRich(8, since=since, where="second"), **AUTO, callbacks=[Cut({0: 2})], max_epochs=2)
    assert model.tally.failures == 1
    assert_same((state(model), model.seen), (state(by_hand), by_hand.seen))
    assert run.counters == reference.counters


def test_several_times_in_a_training() -> None:
    class Shorter(ShortRich):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.limit = {0: 20, 4: 9, 8: 4}.get(self.trainer.global_step, self.limit)

    by_hand, reference = fit(model=Rich(), callbacks=[Cut({0: 2, 4: 4, 8: 8})], max_epochs=2)
    model, run = fit(model=Shorter(), **AUTO, max_epochs=2)
    assert_same((state(model), model.seen), (state(by_hand), by_hand.seen))
    assert run.counters == reference.counters
    assert [tuple(found.values()) for found in run.out_of_memory] == [(1, 2, 16), (5, 4, 8), (9, 8, 4)]


def test_hooks_between_micro_batches_log_too() -> None:
    """In the first step of an epoch Lightning would forget what `training_step` has logged before them."""

    class Between(Rich):
        def on_after_backward(self) -> None:
            self.log("between", torch.tensor(2.0), on_step=True, on_epoch=True)

    class ShortBetween(Short, Between):
        pass

    uncut, _ = fit(model=Between(dropout=0), max_epochs=2)
    by_hand, _ = fit(model=Between(dropout=0), callbacks=[Cut({0: 3, 5: 6})], max_epochs=2)
    assert by_hand.seen[6]["sum_epoch"] == pytest.approx(X[:, 0].sum().item(), rel=1e-9)
    assert by_hand.seen[6]["between_epoch"] == pytest.approx(2)
    assert by_hand.seen[6]["max_epoch"] == uncut.seen[6]["max_epoch"] == X[:, 0].max().item()
    by_hand, _ = fit(model=Between(), callbacks=[Cut({5: 4})], max_epochs=2)
    model, _ = fit(model=ShortBetween(10, since=5, where="after"), **AUTO, max_epochs=2)
    assert_same((state(model), model.seen), (state(by_hand), by_hand.seen))


def test_a_buffer_that_is_replaced_not_written_into() -> None:
    class Replaces(Rich):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("running", torch.zeros(FEATURES, dtype=torch.float64))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.running = 0.9 * self.running + 0.1 * batch[0].mean(dim=0)
            return super().training_step(batch, batch_idx)

    class ShortReplaces(Short, Replaces):
        pass

    by_hand, _ = fit(model=Replaces(), callbacks=[Cut({3: 4})], max_epochs=1)
    model, _ = fit(model=ShortReplaces(10, since=3, where="after"), **AUTO, max_epochs=1)
    assert_same((state(model), model.seen), (state(by_hand), by_hand.seen))


def test_in_the_midst_of_a_torchmetric() -> None:
    class Midst(MeanMetric):
        fails = False

        def update(self, value: Any, weight: Any = 1.0) -> None:
            super().update(value, weight)
            if self.fails:
                Midst.fails = False
                no_memory()

    class Measures(Net):
        def __init__(self) -> None:
            super().__init__()
            self.midst, self.values = Midst(compute_on_cpu=True), []

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.midst(batch[0][:, 0])
            self.log("midst", self.midst, on_step=True, on_epoch=True)
            return super().training_step(batch, batch_idx)

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            Midst.fails = self.trainer.global_step == 3

        def on_train_epoch_end(self) -> None:
            self.values.append(float(self.trainer.callback_metrics["midst_epoch"]))
            midst = self.midst
            assert (midst._to_sync, midst._should_unsync, midst.compute_on_cpu) == (True, True, True)

    model, run = fit(model=Measures(), **AUTO, max_epochs=1)
    assert run.accumulate == 2
    assert model.values == pytest.approx([X[:, 0].mean().item()], rel=1e-5)


def test_the_allocator_of_the_cpu() -> None:
    expected, _ = plain_loop(epochs=1)
    model, run = fit(model=ShortNet(10, since=3, fail=no_memory_on_the_cpu), **AUTO, max_epochs=1)
    assert_equal(weights(model), expected)
    assert run.accumulate == 4


def test_clipping() -> None:
    expected, _ = plain_loop(epochs=1, clip=0.05)
    model, _ = fit(model=ShortNet(10, since=3, where="after"), **AUTO, gradient_clip_val=0.05, max_epochs=1)
    assert_equal(weights(model), expected)


@pytest.mark.parametrize(("since", "evaluation"), [(0, 0), (2, 0), (2, 1), (3, 3)])
def test_lbfgs(since: int, evaluation: int) -> None:
    """Four times a step it evaluates the whole batch; out of memory in any of them, that one is done again."""

    class Evaluates(ShortNet):
        evaluations = 0

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.evaluations = 0
            self.decide()

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            super().on_before_optimizer_step(optimizer)
            self.evaluations += 1
            self.decide()

        def decide(self) -> None:
            is_short = self.trainer.global_step > since or self.evaluations >= evaluation
            self.limit = 40 if is_short else 10**9

    model, run = fit(
        model=Evaluates(since=since, where="after", optimizer="lbfgs"), data=Data(batch_size="full"), **AUTO
    )
    torch.testing.assert_close(weights(model), weights(lbfgs()), rtol=1e-9, atol=1e-12)
    assert (run.accumulate, run.global_step) == (4, 4)
    before = 4 * since + evaluation
    assert run.counters.iterations == before + 4 * (16 - before)


def growing(first: int, factor: int, epochs: int) -> tuple[Tensor, list[int]]:
    """The plain loop with b_t = first * factor^t: its weights, and the sizes of its batches."""
    net, sizes = network(), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 20)
    for epoch in range(epochs):
        for batch in torch.from_numpy(epoch_order(SEED, epoch, 157)).split(first * factor**epoch):
            optimizer.zero_grad()
            nn.functional.mse_loss(net(X[batch]), Y[batch]).backward()
            optimizer.step()
            schedule.step()
            sizes.append(len(batch))
    return weights(net), sizes


@pytest.mark.parametrize(
    ("first", "limit", "since", "pieces"),
    [
        (32, 10, 0, 4),  # micro-batches of 8, as many more as the batch grows
        (32, 16, 5, 2),  # in the second epoch: 64 = 32 + 32 does not fit, 4 x 16 does
        (31, 1, 6, 31),  # no more pieces than samples, or the plan would refuse them
    ],
)
def test_a_growing_batch(first: int, limit: int, since: int, pieces: int) -> None:
    expected, sizes = growing(first, 2, 3)
    data = Data(batch_size=first, batch_growth={"factor": 2})
    model, run = fit(model=ShortNet(limit, since=since, where="after"), data=data, **AUTO, max_epochs=3)
    assert_equal(weights(model), expected)
    assert run.accumulate == pieces
    assert run.out_of_memory == [
        {"step": since + 1, "accumulate_grad_batches": pieces, "micro_batch_size": ceil(first / pieces)}
    ]
    assert run.global_step == len(sizes) == run.plan.total_steps
    growth = [2**t for t in range(3) for _ in range(ceil(157 / (first * 2**t)))]  # of the batch, and of its pieces
    accumulation = {step: g * (pieces if step >= since else 1) for step, g in enumerate(growth)}
    fewer = 2 if limit == 10 else 0  # the last 29 samples of 128 = 16 x 8 in 14 pieces, none of them of one sample
    assert run.counters.iterations == iterations(accumulation, sizes) - fewer


def test_a_growing_batch_whose_micro_batches_grow() -> None:
    """4 samples fit. 4, 8, 16: cut in 1, 2 and 4, found when they come."""
    expected, sizes = growing(4, 2, 3)
    data = Data(batch_size=4, batch_growth={"factor": 2, "accumulate": False})
    model, run = fit(model=ShortNet(4, where="after"), data=data, **AUTO, max_epochs=3)
    assert_equal(weights(model), expected)
    steps = [ceil(157 / size) for size in (4, 8, 16)]
    assert [(out["step"], out["micro_batch_size"]) for out in run.out_of_memory] == [
        (steps[0] + 1, 4),
        (steps[0] + steps[1] + 1, 4),
    ]
    assert run.accumulate == 4
    assert run.global_step == len(sizes)
    # From here on the plan is of what fits: the evaluation goes by it.
    assert run.plan.micro_batch_size == 4
    assert [epoch.iterations for epoch in run.plan.per_epoch][1:] == [4 * (steps[1] - 1) + 3, 4 * (steps[2] - 1) + 4]


def test_a_plain_loader() -> None:
    """Whose batches are counted as they come; at most as many pieces as samples."""
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=5)
    results = []
    for model, flags in ((ShortNet(1, since=3), AUTO), (Net(), {})):
        run = trainer(max_epochs=1, limit_val_batches=0, **flags)
        run.fit(model, loader)
        results.append(weights(model))
        assert run.plan is not None
    assert_equal(*results)


# ---- where nothing helps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["before", "after", "backward"])
def test_one_sample_too_many(where: str) -> None:
    with pytest.raises(RunFailed) as failure:
        fit(model=ShortNet(0, since=3, where=where), data=Data(batch_size=8), **AUTO)
    assert str(failure.value) == "out of memory in step 4 with one sample at a time (CUDA out of memory)"


def test_the_line_of_the_cpu_says_what_it_is() -> None:
    with pytest.raises(RunFailed) as failure:
        fit(model=ShortNet(0, fail=no_memory_on_the_cpu), **AUTO)
    assert str(failure.value) == (
        "out of memory in step 1 with one sample at a time (DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4000000000000000 bytes)"
    )


@pytest.mark.parametrize(("accumulation", "on_nonfinite"), [(1, "stop"), (3, "stop"), (3, "skip")])
def test_a_given_number_is_kept(accumulation: int, on_nonfinite: str) -> None:
    with pytest.raises(RunFailed, match=r"step 4 .*use trainer\.accumulate_grad_batches=auto") as failure:
        fit(model=ShortNet(10, since=3), accumulate_grad_batches=accumulation, on_nonfinite=on_nonfinite)
    assert "\n" not in str(failure.value)
    assert f"more than {accumulation} micro-batches" in str(failure.value)


@pytest.mark.parametrize("error", [RuntimeError("no"), RuntimeError(5), RuntimeError(ValueError("x")), KeyError("k")])
def test_other_errors_are_left_alone(error: Exception) -> None:
    class Fails(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise error

    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as raised:
        fit(model=Fails(), **AUTO)
    assert raised.value is error


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input.",
        "MPS backend out of memory (MPS allocated: 17.00 GB, other allocations: 1.00 GB, max allowed: 18.13 GB).",
    ],
)
def test_the_texts_of_other_allocators(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(ValueError(text))


@pytest.mark.parametrize("value", ["automatic", "", "AUTO", 0, 1.5, True, None])
def test_another_word(value: object) -> None:
    with pytest.raises(InputError, match="nor auto"):
        trainer(accumulate_grad_batches=value)


# ---- checkpoints -------------------------------------------------------------------------------------------


def test_a_resumed_run_starts_with_what_was_found(tmp_path: Path) -> None:
    every = Checkpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    model, run = fit(model=ShortRich(10, since=3), **AUTO, callbacks=[every], enable_checkpointing=True, max_epochs=2)
    assert run.out_of_memory == [{"step": 4, "accumulate_grad_batches": 4, "micro_batch_size": 8}]
    for step in (3, 4, 7):
        path = str(tmp_path / f"step={step}.ckpt")
        again, rerun = fit(model=ShortRich(10, since=3), **AUTO, checkpoint=path, max_epochs=2)
        assert again.tally.failures == (2 if step < 4 else 0)
        assert_same((state(again), again.seen[-2:]), (state(model), model.seen[-2:]))
        assert (rerun.accumulate, rerun.out_of_memory) == (4, run.out_of_memory)
        assert rerun.counters == run.counters
    given, rerun = fit(model=Rich(), accumulate_grad_batches=4, checkpoint=path, max_epochs=2)
    assert rerun.accumulate == 4
    assert torch.equal(weights(given), weights(model))


def test_a_smaller_batch_than_the_one_it_was_found_for(tmp_path: Path) -> None:
    """More micro-batches than it has samples; the plan must not refuse what the user has not asked for."""
    data = Data(batch_size=32)
    _, run = fit(model=ShortNet(4), data=data, **AUTO, max_epochs=1, limit_val_batches=0)
    assert run.accumulate == 8
    run.save_checkpoint(tmp_path / "end.ckpt")
    _, again = fit(model=Net(), data=Data(batch_size=5), **AUTO, checkpoint=str(tmp_path / "end.ckpt"), max_epochs=2)
    assert again.plan.accumulate_grad_batches == 5
    assert again.global_step == 5 + 32


# ---- two devices -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "since", "where", "num_samples", "pieces"),
    [
        (7, 6, "backward", 157, 4),
        (7, 0, "after", 129, 4),  # the last batch is one sample: the second device has no share of it
    ],
)
def test_only_the_second_device(
    limit: int, since: int, where: str, num_samples: int, pieces: int, tmp_path: Path
) -> None:
    expected, losses = plain_loop(num_samples=num_samples, epochs=2)
    alone = undisturbed(num_samples)
    record = tmp_path / "seen.pt"
    model = ShortNet(limit, since=since, where=where, rank=1, record=record)
    fit(model=model, data=Data(num_samples, batch_size=32), **AUTO, **TWO, max_epochs=2)
    seen = torch.load(record)
    assert_equal(seen["weights"], expected)
    assert_equal(seen["step_losses"], losses)
    assert_equal(seen["logged"], losses)
    assert_equal(seen["epoch_means"], alone.epoch_means)
    assert_equal(seen["val_losses"], alone.val_losses)
    assert seen["plan"]["accumulate_grad_batches"] == pieces
    shares = [(size + 1) // 2 for size in ([32] * (num_samples // 32) + [num_samples % 32]) * 2]
    assert seen["counters"]["iterations"] == iterations({since: pieces}, shares)


def both(tmp_path: Path) -> list[Any]:
    """What the two devices have seen."""
    return [torch.load(tmp_path / f"seen.{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("since", [0, 3])
def test_batchnorm_when_the_second_device_is_short(since: int, tmp_path: Path) -> None:
    fit(model=Rich(record=tmp_path / "seen.pt"), **AUTO, **TWO, callbacks=[Cut({since: 2})], max_epochs=1)
    by_hand = both(tmp_path)
    model = ShortRich(8, since=since, where="after", rank=1, record=tmp_path / "seen.pt")
    fit(model=model, **AUTO, **TWO, max_epochs=1)
    for found, expected in zip(both(tmp_path), by_hand, strict=True):
        assert_same(found, expected)


class Centred(Rich):
    """Subtracts a mean that it keeps of all batches so far: unlike BatchNorm, of single samples too."""

    def __init__(self, record: Path) -> None:
        super().__init__(record=record)
        self.net = centred()


def centred() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(FEATURES, 16), Running(), nn.Tanh(), nn.Linear(16, 1)).double()


class Running(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(dim=0)
        return x - self.mean


@pytest.mark.parametrize(("module", "num_samples"), [(Rich, 31), (Centred, 33)])
@pytest.mark.parametrize(
    "flags",
    [pytest.param({}, id="validated"),
     pytest.param({"limit_val_batches": 0}, id="not validated", marks=pytest.mark.slow)],
)  # fmt: skip
def test_two_devices_with_enough_memory(module: Any, num_samples: int, flags: dict[str, Any], tmp_path: Path) -> None:
    """As by DistributedDataParallel: clipping, buffers, a last batch of one sample (33 = 16 + 16 + 1)."""
    seen = []
    for accumulation in (1, "auto"):
        fit(
            model=module(record=tmp_path / "seen.pt"), data=Data(num_samples, batch_size=16), gradient_clip_val=0.05,
            accumulate_grad_batches=accumulation, **TWO, **flags,
        )  # fmt: skip
        seen.append(both(tmp_path))
    (first, _), (first_auto, second_auto) = seen
    assert_same(first_auto, first, is_bitwise=False)
    # the second device has everything of the first's, buffers too
    torch.testing.assert_close(second_auto[0], first_auto[0], rtol=0, atol=0)


def test_parameters_that_only_one_device_uses(tmp_path: Path) -> None:
    """Their gradients meet all the same, as with `find_unused_parameters`."""

    class Either(ShortNet):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            torch.manual_seed(2)
            self.either = nn.ModuleList([nn.Linear(FEATURES, 1) for _ in range(3)]).double()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss + self.either[self.global_rank](batch[0]).square().mean()

    record, trained = tmp_path / "seen.pt", []
    layouts: list[dict[str, Any]] = [{"strategy": "ddp_fork_find_unused_parameters_true"}, AUTO | TWO]
    for flags in layouts:
        fit(model=Either(record=record), **{"devices": 2, "max_epochs": 1, **flags})
        trained.append(torch.load(record)["weights"])
    assert_equal(*trained)


def test_lbfgs_on_two_devices(tmp_path: Path) -> None:
    record = tmp_path / "seen.pt"
    model = ShortNet(40, since=1, where="after", rank=1, optimizer="lbfgs", record=record)
    fit(model=model, data=Data(batch_size="full"), **AUTO, **TWO)
    torch.testing.assert_close(torch.load(record)["weights"], weights(lbfgs()), rtol=1e-9, atol=1e-12)


def test_one_sample_too_many_on_the_second_device() -> None:
    with pytest.raises(Exception, match="RunFailed: out of memory in step 4 with one sample at a time"):
        fit(model=ShortNet(0, since=3, rank=1), data=Data(batch_size=4), **AUTO, **TWO)


# ---- evaluations -------------------------------------------------------------------------------------------


class Lines(Logger):
    """Keeps what it is given."""

    name = version = property(lambda self: "lines")  # pyright: ignore

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, float]] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.lines.append({name: float(value) for name, value in metrics.items()})

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...


class Judge(Net):
    """Evaluations with every kind of logged value, that run out of memory above `limit` samples."""

    def __init__(self, limit: int = 10**9, where: str = "before", rank: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.limit, self.where, self.rank = limit, where, rank
        self.mean, self.pearl = MeanMetric(), MeanMetric()
        self.tally = Tally()
        self.outputs: list[Tensor] = []
        self.found: dict[str, float] = {}

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return self.judge(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        return self.judge(batch, "test")

    def judge(self, batch: Any, name: str) -> Any:
        x, y = batch
        is_short = len(x) > self.limit and self.rank in (None, self.global_rank)
        self.tally.failures += is_short
        if is_short and self.where == "before":
            no_memory()
        loss = nn.functional.mse_loss(self.net(x), y)
        self.log(f"{name}/loss", loss, on_step=True, on_epoch=True)
        self.log(f"{name}/sum", x[:, 0].sum(), on_step=True, on_epoch=True, reduce_fx="sum")
        self.log(f"{name}/max", x[:, 0].max(), on_step=False, on_epoch=True, reduce_fx="max")
        self.mean.update(x[:, 0])
        self.log(f"{name}/mean", self.mean)
        self.pearl(x[:, 1])
        self.log(f"{name}/pearl", self.pearl)
        if is_short:
            no_memory()
        return {"loss": loss, "x": x}

    def on_test_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        assert torch.equal(outputs["x"], batch[0])
        self.log("test/after", batch[0][:, 0].mean())

    def on_validation_epoch_end(self) -> None:
        self.val_losses.append(float(self.trainer.callback_metrics["val/loss_epoch"]))

    def on_test_epoch_end(self) -> None:
        self.found = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        if self.record is not None and self.trainer.is_global_zero:
            torch.save((self.found, self.trainer.out_of_memory), self.record)  # pyright: ignore


def judged(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """By hand, of all samples at once."""
    loss = nn.functional.mse_loss(net(x), y).item()
    return {
        "test/loss_epoch": loss, "test/sum_epoch": x[:, 0].sum().item(), "test/max": x[:, 0].max().item(),
        "test/mean": x[:, 0].mean().item(), "test/pearl": x[:, 1].mean().item(), "test/after": x[:, 0].mean().item(),
    }  # fmt: skip


def assert_judged(found: dict[str, float], expected: dict[str, float]) -> None:
    assert found["test/loss_epoch"] == pytest.approx(expected["test/loss_epoch"], rel=1e-12)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)  # torchmetrics: float32


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("accumulation", [1, "auto"])
@pytest.mark.parametrize(("limit", "pieces"), [(3, 4), (1, 16)])
def test_an_evaluation_takes_smaller_batches(where: str, accumulation: Any, limit: int, pieces: int) -> None:
    """31 samples in batches of 11, 11 and 9."""
    lines, model = Lines(), Judge(limit, where)
    run = trainer(logger=lines, accumulate_grad_batches=accumulation)
    run.test(model, datamodule=Data(batch_size=32, eval_batch_size=11), verbose=False)
    assert_judged(model.found, judged(model.net, X[:31], Y[:31]))
    assert model.tally.failures == pieces.bit_length() - 1
    assert [found["pieces"] for found in run.out_of_memory] == [2 ** (i + 1) for i in range(model.tally.failures)]
    batches = [(X[a:b], Y[a:b]) for a, b in ((0, 11), (11, 22), (22, 31))]
    steps = [line for line in lines.lines if "test/loss_step" in line]
    assert [s["test/loss_step"] for s in steps] == pytest.approx(
        [nn.functional.mse_loss(model.net(x), y).item() for x, y in batches], rel=1e-12
    )
    assert [s["test/sum_step"] for s in steps] == pytest.approx([x[:, 0].sum().item() for x, _ in batches], rel=1e-12)


@pytest.mark.parametrize("where", ["before", "after"])
def test_validations_in_a_training(where: str) -> None:
    expected, _ = fit(model=Judge())
    model, run = fit(model=Judge(5, where), num_sanity_val_steps=2)
    assert torch.equal(weights(model), weights(expected))
    assert_equal(model.val_losses[-4:], expected.val_losses)
    assert model.tally.failures == 3  # 23 = 12 + 11, 6 + ..., 3 + ...: found once
    assert [found["pieces"] for found in run.out_of_memory] == [2, 4, 8]


def test_an_evaluation_of_one_sample_too_many() -> None:
    with pytest.raises(RunFailed) as failure:
        trainer().test(Judge(0), datamodule=Data(batch_size=32), verbose=False)
    assert str(failure.value) == "out of memory in an evaluation with one sample at a time (CUDA out of memory)"


def test_an_evaluation_whose_batches_cannot_be_cut() -> None:
    class Odd(Judge):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0], batch[1][:1]

    with pytest.raises(
        RunFailed, match=r"^out of memory in an evaluation \(CUDA out of memory\).*count_samples\(batch"
    ):
        trainer().test(Odd(5), datamodule=Data(batch_size=32), verbose=False)


@pytest.mark.parametrize("where", ["before", "after"])
def test_evaluations_on_two_devices(where: str, tmp_path: Path) -> None:
    """One of which is short of memory; and three samples, of which one device has one."""
    record, model = tmp_path / "seen.pt", Judge()
    for num_samples, limit in ((31, 3), (3, 1)):

        class Some(Data):
            def load(self, num_samples: int = num_samples) -> Any:
                return super().load()._replace(test=(X[:num_samples], Y[:num_samples]))

        data = Some(batch_size=32, eval_batch_size=16 if num_samples == 31 else 4)
        short = Judge(limit, where, rank=0 if num_samples == 3 else 1, record=record)
        trainer(**AUTO, **TWO).test(short, datamodule=data, verbose=False)
        found, out_of_memory = torch.load(record)
        assert_judged(found, judged(model.net, X[:num_samples], Y[:num_samples]))
        assert [memory["pieces"] for memory in out_of_memory] == ([2, 4] if num_samples == 31 else [2])


def test_validations_on_two_devices(tmp_path: Path) -> None:
    """In a training, where DistributedDataParallel shares buffers in a forward pass, unless it is kept from it."""

    class Buffered(Judge):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.net = centred()

    record, found = tmp_path / "seen.pt", []
    short: list[dict[str, Any]] = [{}, {"limit": 3, "rank": 1}]
    for accumulation, options in zip((1, "auto"), short, strict=True):
        flags = {"num_sanity_val_steps": 1, "max_epochs": 2, "accumulate_grad_batches": accumulation}
        fit(model=Buffered(record=record, **options), **TWO, **flags)
        found.append(torch.load(record))
    assert_equal(found[1]["val_losses"], found[0]["val_losses"])
    assert len(found[1]["val_losses"]) == 3
    assert_equal(found[1]["weights"], found[0]["weights"])


def test_evaluations_on_two_devices_that_may_not_agree() -> None:
    with pytest.raises(Exception, match=r"RunFailed: out of memory in an evaluation.*accumulate_grad_batches=auto"):
        trainer(**TWO).test(Judge(3, rank=1), datamodule=Data(batch_size=32), verbose=False)
