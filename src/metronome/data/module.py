"""The base of the data modules: it owns batching and shuffling, so that a data set is all there is to write."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import lightning as L
from torch.utils.data import DataLoader, default_collate

from metronome.data.floats import Told, floats_wanted
from metronome.data.mixtures.reading import reader_of
from metronome.data.mixtures.sampler import MixtureSampler
from metronome.data.mixtures.sets import Mixture
from metronome.data.on_device import OnDevice
from metronome.data.rows import as_dataset, is_rows, whole_batch
from metronome.data.splits import Splits, data_sets_of
from metronome.data.streams.loader import loader_of
from metronome.data.streams.reader import StreamReader, is_stream
from metronome.training import BatchSampler, EvaluationSampler, Trainer
from metronome.training.place import data_devices, data_rank
from metronome.units import BatchSchedule, InputError, check_number, micro_batch_size
from metronome.units.mixtures.mix import Mix


class DataModule(L.LightningDataModule):
    """Batches and shuffles; a subclass writes `load` and returns its `Splits`.

        class Mine(DataModule):
            def load(self) -> Splits:
                x, y = ...
                return Splits(train=(x[:800], y[:800]), val=(x[800:], y[800:]))

    Args:
        batch_size: samples that one optimizer step sees, over all devices; `full` for the whole training set.
        drop_last: whether to leave out a last batch that is smaller than the others.
        batch_growth: `{factor, every, max, accumulate}`: the batch grows by `factor` each `every` epochs, up to `max`;
            accumulation grows along, unless `accumulate` is false.
        num_workers: processes that read ahead; 0 reads in the training process. The result is the same.
        shuffle: whether to reorder the training samples each epoch.
        eval_batch_size: samples in a batch of validation and test, over all devices. None: as many as in a batch of
            training. Devices and accumulation cut it up, as they do there: what fits in training fits here.
        pin_memory: whether to copy batches to page-locked memory; None: where a GPU trains.
        on_device: whether tensors and arrays are kept on the GPU that trains, as they are (uint8 stays uint8), and
            batches gathered there, by no worker and past any pinned memory; the result is the same. `auto`: where all
            splits together take at most a quarter of its free memory, and nobody has written a hook for batches on
            their way to it. A module's `check_batch(columns)`, if it has one, is then asked once about each whole
            split, still in main memory. Each process keeps the whole data set. On a CPU it means nothing.

    Raises:
        InputError: for a value that is not allowed, on construction or once the data are loaded.
    """

    def __init__(
        self,
        batch_size: int | str = 64,
        *,
        drop_last: bool = False,
        batch_growth: Mapping[str, Any] | None = None,
        num_workers: int = 0,
        shuffle: bool = True,
        eval_batch_size: int | None = None,
        pin_memory: bool | None = None,
        on_device: bool | str = "auto",
    ) -> None:
        super().__init__()
        check_number("data.num_workers", num_workers, "processes", least=0)
        if eval_batch_size is not None:
            check_number("data.eval_batch_size", eval_batch_size, "samples")
        for name, value in (("drop_last", drop_last), ("shuffle", shuffle), ("pin_memory", pin_memory or False)):
            if not isinstance(value, bool):
                raise InputError(f"data.{name}={value!r} is neither true nor false")
        if not isinstance(on_device, bool) and on_device != "auto":
            raise InputError(f"data.on_device={on_device!r} is neither true, false nor auto")
        if on_device is True and (num_workers or pin_memory):
            given = f"num_workers={num_workers}" if num_workers else "pin_memory=true"
            raise InputError(
                f"data.on_device=true gathers batches on the device, where data.{given} has nothing to do; leave one "
                "of them out"
            )
        if batch_growth is not None and not isinstance(batch_growth, Mapping):
            raise InputError(
                f"data.batch_growth={batch_growth!r} is not a mapping such as {{factor: 2, every: 5 epochs}}"
            )
        self.batch_size, self.batch_growth = batch_size, batch_growth
        self.drop_last, self.shuffle = drop_last, shuffle
        self.num_workers, self.eval_batch_size, self.pin_memory = num_workers, eval_batch_size, pin_memory
        self._on_device = OnDevice(on_device)
        self._splits: Splits | None = None
        # What `Trainer.predict` reads: the name of a split, or samples, which may be inputs alone.
        self.to_predict: Any = "test"
        # What a batch is made of, from a list of samples; Rows need none.
        self.collate = default_collate
        # Whether floats are read in the type of the weights, float32 or float64; False: as they come.
        self.casts_floats = True
        self._told = Told()

    def load(self) -> Splits:
        """Your data. Called once in each process; download in `prepare_data`, which one process runs."""
        raise NotImplementedError(f"{type(self).__name__} must define load(self) -> Splits")

    def known_num_samples(self) -> int | None:
        """Training samples, where they are known without loading the data, so that a training can be planned before
        anything is downloaded; None where they are not."""
        return None

    # ---- what the data are ------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        if self._splits is not None or (stage == "predict" and not self._predicts_a_split):
            return
        self._splits = data_sets_of(self, self.load(), self._on_device.wanted is True)

    @property
    def splits(self) -> Splits:
        """The data sets, loaded on first use."""
        self.setup()
        assert self._splits is not None
        return self._splits

    @property
    def num_samples(self) -> int:
        """Training samples, N."""
        if self._splits is None and (known := self.known_num_samples()) is not None:
            return known
        if self.splits.train is None:
            raise InputError(f"{type(self).__name__} has no training data set")
        if self.is_stream:
            raise InputError(f"the training data of {type(self).__name__} are a stream, whose length nobody knows")
        return len(self.splits.train) if self.mix is None else self.mix.samples_per_epoch

    @property
    def mix(self) -> Mix | None:
        """How the training data are mixed, where they are a mixture."""
        if self._splits is None and self.known_num_samples() is not None:
            return None
        return self.splits.train.mix if isinstance(self.splits.train, Mixture) else None

    @property
    def is_stream(self) -> bool:
        """Whether the training data can only be iterated over, and have no length."""
        return (self._splits is not None or self.known_num_samples() is None) and is_stream(self.splits.train)

    @property
    def schedule(self) -> BatchSchedule:
        """The batch size of each epoch."""
        if self.is_stream:
            return BatchSchedule(int(self.batch_size))
        return BatchSchedule.of(self.batch_size, self.num_samples, self.batch_growth)

    # ---- loaders ----------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader:
        trainer = self._attached_trainer()
        if not isinstance(trainer, Trainer):
            raise InputError(
                f"{type(self).__name__} gives whole batches, which Lightning's own Trainer takes for micro-batches; "
                "use metronome.training.Trainer"
            )
        if self.is_stream:
            return self._stream_loader(trainer)
        make = partial(BatchSampler, self.num_samples) if self.mix is None else partial(MixtureSampler, self.mix)
        sampler = make(
            self.schedule,
            seed=trainer.seed,
            shuffle=self.shuffle and not trainer.overfit_batches,  # pyright: ignore
            drop_last=self.drop_last,
            devices=data_devices(trainer),
            rank=data_rank(trainer),
        )
        sampler.position = trainer.epoch, 0
        return self._loader(self.splits.train, sampler, trainer)

    def _stream_loader(self, trainer: Trainer) -> DataLoader:
        floats = floats_wanted(trainer) if self.casts_floats else None
        place = {"devices": data_devices(trainer), "rank": data_rank(trainer)}
        ways = {"collate": self.collate, "drop_last": self.drop_last, "floats": floats, "told": self._told}
        reader = StreamReader(self.splits.train, int(self.batch_size), seed=trainer.seed, **place, **ways)
        return loader_of(reader, lambda: trainer.epoch, **self._ways_to_load(trainer))

    def val_dataloader(self) -> DataLoader | list:
        return self._evaluation_loader(self.splits.val)

    def test_dataloader(self) -> DataLoader | list:
        return self._evaluation_loader(self.splits.test)

    def train_set_dataloader(self) -> DataLoader | list:
        """The training samples as those of a test are read: in their order, in batches of an evaluation."""
        if self.is_stream:
            raise InputError("test_train_set=true, and the training data are a stream, whose end nobody knows")
        return self._evaluation_loader(self.splits.train)

    def predict_dataloader(self) -> DataLoader | list:
        """The samples of `to_predict` in their order, as many at once as a device takes in an evaluation. Those that
        are no split are read without loading the splits."""
        trainer, size = self._attached_trainer(), self.eval_batch_size
        given = getattr(self.splits, self.to_predict) if self._predicts_a_split else self.to_predict
        dataset = as_dataset(given, self.collate)
        if self._predicts_a_split:
            size = size or self._batch_size_to_evaluate()
        else:
            size = size or (int(self.batch_size) if str(self.batch_size).isdigit() else 0) or 256
        if isinstance(trainer, Trainer):
            size = micro_batch_size(size, data_devices(trainer), trainer.accumulate) * data_devices(trainer)
        sampler = EvaluationSampler(len(dataset), size, devices=data_devices(trainer), rank=data_rank(trainer))
        return self._loader(dataset, sampler, trainer)

    @property
    def _predicts_a_split(self) -> bool:
        return isinstance(self.to_predict, str)

    def _evaluation_loader(self, dataset: Any) -> DataLoader | list:
        if dataset is None:
            return []
        trainer = self._attached_trainer()
        size = self.eval_batch_size or self._batch_size_to_evaluate()
        sampler = EvaluationSampler(
            len(dataset),
            size,
            devices=data_devices(trainer),
            rank=data_rank(trainer),
            at_once=self._samples_at_once(size, trainer),
        )
        return self._loader(dataset, sampler, trainer)

    def _attached_trainer(self) -> L.Trainer:
        if self.trainer is None:
            raise InputError(
                f"{type(self).__name__} has no Trainer yet, and how it cuts batches depends on the devices; "
                "set its `trainer` first, or look at the data in its `splits`"
            )
        return self.trainer

    def _batch_size_to_evaluate(self) -> int:
        if str(self.batch_size).isdigit() and int(self.batch_size) > 0:
            return int(self.batch_size)
        return 256 if self.splits.train is None else self.schedule.at(0)

    def _samples_at_once(self, size: int, trainer: L.Trainer) -> int | None:
        """What a device takes through one pass of an evaluation: as many as in training, or more of a larger batch."""
        if not isinstance(trainer, Trainer):
            return None
        cut = micro_batch_size(size, data_devices(trainer), trainer.accumulate)
        if self.splits.train is None or self.is_stream:
            return cut
        return max(cut, trainer.plan_for(self.num_samples, self.schedule, self.drop_last).micro_batch_size)

    def _loader(self, dataset: Any, sampler: Any, trainer: L.Trainer) -> DataLoader:
        floats = floats_wanted(trainer) if self.casts_floats else None
        is_split = self._splits is not None and any(dataset is split for split in self._splits)
        there = self._on_device.reader(dataset, self.splits._asdict(), trainer, floats) if is_split else None
        if there is not None:
            self._told.about(dataset.columns, floats)
            return DataLoader(there, batch_sampler=sampler, collate_fn=whole_batch)
        if floats is not None and is_rows(dataset) and not dataset.is_stored:
            self._told.about(dataset.columns, floats)
            dataset = dataset.with_floats(floats)  # as a whole, so that no step has to
        if self.num_workers:
            self._told.share()
        seed = trainer.seed if isinstance(trainer, Trainer) else 0
        return DataLoader(
            reader_of(dataset, sampler, seed, self.collate, floats, self._told),
            batch_sampler=sampler,
            collate_fn=whole_batch,
            **self._ways_to_load(trainer),
            persistent_workers=self.num_workers > 0,  # starting them costs more than most epochs
        )

    def _ways_to_load(self, trainer: L.Trainer) -> dict[str, Any]:
        on_gpu = trainer.strategy.root_device.type == "cuda"
        return {"num_workers": self.num_workers, "pin_memory": on_gpu if self.pin_memory is None else self.pin_memory}
