from collections import Counter

import pytest
import torch
from sklearn.datasets import load_digits

from metronome.units import InputError
from project.data import Digits


def test_sizes_and_contents() -> None:
    splits = Digits().splits
    assert [len(split) for split in splits] == [1257, 180, 360]
    for split in splits:
        images, labels = split[torch.arange(len(split))]
        assert (images.shape, images.dtype) == ((len(split), 1, 8, 8), torch.float32)
        assert (labels.shape, labels.dtype) == ((len(split),), torch.int64)
        assert (images.min(), images.max()) == (0.0, 1.0)


def test_each_image_is_in_one_split() -> None:
    """All splits together are the source, image by image, each with its label."""
    images, labels = load_digits(return_X_y=True)
    source = Counter((tuple(image), label) for image, label in zip(images.tolist(), labels.tolist(), strict=True))
    found = Counter()
    for split in Digits().splits:
        rows = (split.columns[0].flatten(1) * 16).tolist()
        found.update((tuple(row), label) for row, label in zip(rows, split.columns[1].tolist(), strict=True))
    assert found == source
    assert found.total() == 1797


def test_every_split_has_its_part_of_every_class() -> None:
    counts = torch.from_numpy(load_digits().target).bincount()  # pyright: ignore
    for split in Digits().splits:
        found = split.columns[1].bincount()
        assert (found - counts * len(split) / 1797).abs().max() < 1.5


def test_the_split_does_not_depend_on_a_seed() -> None:
    torch.manual_seed(1)
    first = Digits().splits
    torch.manual_seed(2)
    for one, other in zip(first, Digits().splits, strict=True):
        assert torch.equal(one.columns[0], other.columns[0])
        assert torch.equal(one.columns[1], other.columns[1])


def test_fewer_to_train() -> None:
    """The first of them; validation and test stay as they are."""
    some, every = Digits(num_train=100).splits, Digits().splits
    assert [len(split) for split in some] == [100, 180, 360]
    assert torch.equal(some.train.columns[0], every.train.columns[0][:100])
    assert torch.equal(some.test.columns[0], every.test.columns[0])


@pytest.mark.parametrize(
    ("num_train", "message"),
    [
        (0, "data.num_train=0 is not a number of samples from 1 up"),
        (1258, "data.num_train=1258 is more than the 1,257 training samples"),
    ],
)
def test_too_few_and_too_many(num_train: int, message: str) -> None:
    with pytest.raises(InputError) as error:
        Digits(num_train=num_train).setup()
    assert str(error.value) == message
