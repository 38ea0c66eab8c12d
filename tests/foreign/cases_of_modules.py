"""Networks: what normalizes, recurs, shares or freezes its weights, draws or remembers."""

from typing import Any

import torch
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from lightning.pytorch.demos.lstm import SimpleLSTM
from stock import CLASSES, FEATURES, LABELS, N, Net, X, case, left, loader, network, train
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

WORDS = torch.randint(11, (N, 7), generator=torch.Generator().manual_seed(4))
IMAGES = torch.randn(N, 2, 5, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@case("a small network, SGD with momentum", quick=True)
def plain(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, Net(), loader(), flags)


@case("Lightning's BoringModel with its own loaders")
def boring(Trainer: Any, **flags: Any) -> Any:
    torch.manual_seed(1)
    return train(Trainer, BoringModel(), None, flags, limit_train_batches=5, limit_val_batches=2)


@case("Lightning's BoringModel, batches of 6")
def boring_batches(Trainer: Any, **flags: Any) -> Any:
    torch.manual_seed(1)
    return train(Trainer, BoringModel(), DataLoader(RandomDataset(32, N), batch_size=6), flags)


@case("BatchNorm", not_exact="BatchNorm in training", quick=True)
def batch_norm(Trainer: Any, **flags: Any) -> Any:
    net = network(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))
    return train(Trainer, Net(net), loader(9), flags, validation=loader())


@case("BatchNorm, and one sample alone in the last step")
def one_sample_alone(Trainer: Any, **flags: Any) -> Any:
    net = network(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))
    return train(Trainer, Net(net), loader(11), flags)


@case("BatchNorm kept in eval mode")
def batch_norm_in_eval(Trainer: Any, **flags: Any) -> Any:
    class Frozen(Net):
        def on_train_epoch_start(self) -> None:
            self.net[1].eval()

    net = network(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))
    return train(Trainer, Frozen(net), loader(), flags)


@case("convolutions, GroupNorm, pooling")
def convolutions(Trainer: Any, **flags: Any) -> Any:
    layers = nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    data = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=6)
    return train(Trainer, Net(network(*layers, nn.Linear(4, CLASSES))), data, flags)


@case("spectral norm", not_exact="spectral norm")
def spectral_norm(Trainer: Any, **flags: Any) -> Any:
    hidden = nn.utils.parametrizations.spectral_norm(network(nn.Linear(FEATURES, 8))[0])
    return train(Trainer, Net(network(hidden, nn.Tanh(), nn.Linear(8, CLASSES))), loader(), flags)


@case("weight norm, orthogonal weights")
def weight_norm(Trainer: Any, **flags: Any) -> Any:
    first, second, last = network(nn.Linear(FEATURES, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES))
    first = nn.utils.parametrizations.weight_norm(first)
    second = nn.utils.parametrizations.orthogonal(second)
    return train(Trainer, Net(network(first, second, last)), loader(), flags)


@case("dropout", not_exact="dropout, noise, random augmentation in `training_step`", quick=True)
def dropout(Trainer: Any, **flags: Any) -> Any:
    net = network(nn.Dropout(0.2), nn.Linear(FEATURES, 8), nn.Dropout(0.5), nn.Linear(8, CLASSES))
    return train(Trainer, Net(net), loader(), flags)


class LanguageModel(Net):
    """A transformer's encoder whose last layer is its embedding."""

    def __init__(self) -> None:
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        super().__init__(network(nn.Embedding(11, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)))
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.net[0].weight

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (words,) = batch
        logits = self.out(self.net(words[:, :-1]))
        return nn.functional.cross_entropy(logits.flatten(0, 1), words[:, 1:].flatten())


@case("a transformer with tied weights")
def tied_transformer(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, LanguageModel(), DataLoader(TensorDataset(WORDS), batch_size=6), flags)


class Recurrent(Net):
    def __init__(self, carries: bool) -> None:
        torch.manual_seed(1)
        super().__init__(SimpleLSTM(11, 8, 8, 2, dropout=0.0))
        self.carries, self.hidden = carries, None

    def on_train_epoch_start(self) -> None:
        self.hidden = None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        words, net = batch[0], self.net
        hidden = net.init_hidden(len(words)) if self.hidden is None else self.hidden  # pyright: ignore
        out, new = net(words[:, :-1], hidden)
        self.hidden = tuple(part.detach() for part in new) if self.carries else None
        return nn.functional.nll_loss(out, words[:, 1:].flatten())


@case("Lightning's LSTM")
def lstm(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, Recurrent(carries=False), DataLoader(TensorDataset(WORDS), batch_size=6), flags)


@case(
    "Lightning's LSTM, which carries its hidden state from batch to batch",
    not_exact="state that `training_step` leaves to the next (the hidden state of an LSTM, a queue, a running mean)",
)
def lstm_with_state(Trainer: Any, **flags: Any) -> Any:
    data = DataLoader(TensorDataset(WORDS), batch_size=6, drop_last=True)
    return train(Trainer, Recurrent(carries=True), data, flags)


@case(
    "a running mean, in a buffer, of what training_step sees",
    not_exact="state that `training_step` leaves to the next (the hidden state of an LSTM, a queue, a running mean)",
)
def running_mean(Trainer: Any, **flags: Any) -> Any:
    class Centred(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(FEATURES))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.mean = 0.9 * self.mean + 0.1 * batch[0].mean(0)
            return self.loss(self.net(batch[0] - self.mean), batch[1])

    return train(Trainer, Centred(), loader(), flags)


@case("frozen layers, some weights that nothing uses")
def frozen(Trainer: Any, **flags: Any) -> Any:
    module = Net()
    module.net[0].requires_grad_(False)
    module.unused = nn.Linear(3, 3)
    return train(Trainer, module, loader(), flags)


@case("an embedding with sparse gradients, SparseAdam")
def sparse_gradients(Trainer: Any, **flags: Any) -> Any:
    class Bag(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.SparseAdam(self.parameters(), lr=0.1)

    data = DataLoader(TensorDataset(WORDS, LABELS), batch_size=6)
    return train(Trainer, Bag(nn.EmbeddingBag(11, CLASSES, sparse=True)), data, flags)


@case("activations computed again in the backward pass")
def checkpointed(Trainer: Any, **flags: Any) -> Any:
    class Saves(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(checkpoint(self.net, batch[0], use_reentrant=False), batch[1])  # pyright: ignore

    return train(Trainer, Saves(), loader(), flags)


@case("torch.compile of the module")
def compiled(Trainer: Any, **flags: Any) -> Any:
    module = Net()
    module.net.compile(backend="aot_eager")
    found = train(Trainer, module, loader(), flags)
    torch.compiler.reset()
    return found


@case("configure_model makes the layers; lazy layers")
def configured(Trainer: Any, **flags: Any) -> Any:
    class Late(Net):
        def __init__(self) -> None:
            super().__init__(nn.Identity())

        def configure_model(self) -> None:
            if isinstance(self.net, nn.Identity):
                self.net = network(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(CLASSES))
                self.net(X)

    return train(Trainer, Late(), loader(), flags)


@case("several fits of one module, by Trainers of their own")
def two_fits(Trainer: Any, **flags: Any) -> Any:
    module = Net()
    return [train(Trainer, module, loader(size), flags, max_epochs=1) for size in (6, 9)]


@case("one Trainer that fits twice")
def fits_twice(Trainer: Any, **flags: Any) -> Any:
    module, trainer = Net(), Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        **flags,
    )  # fmt: skip
    trainer.fit(module, loader())
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, loader())
    return left(trainer, module)
