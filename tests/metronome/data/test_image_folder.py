"""Pictures in folders: labels by the folders' names, augmentation by (seed, epoch, sample), damaged files by name."""

import pickle
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
import torch
from PIL import Image

from metronome.data import ImageFolder
from metronome.units import InputError

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Each class of its colour, in pictures of several sizes; the test lacks one, as it may."""
    for split, classes in (("train", "blue green red"), ("val", "blue green red"), ("test", "red")):
        for name in classes.split():
            place = tmp_path / split / name
            place.mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (20 + 8 * i, 30 - 5 * i), COLOURS[name]).save(place / f"ä{i}.{'png' if i else 'JPG'}")
            (place / "notes.txt").write_text("no picture")
    return tmp_path


def batches(folder: Path, epoch: int = 0, **options: Any) -> Any:
    data = ImageFolder(folder, **{"size": 16, "batch_size": 4, **options})
    data.trainer = jobs.trainer()
    loader = data.train_dataloader()
    loader.batch_sampler.position = epoch, 0  # pyright: ignore
    return [torch.cat(parts) for parts in zip(*loader, strict=True)]


def test_labels_are_the_places_of_the_folders(folder: Path) -> None:
    splits = ImageFolder(folder, size=16).splits
    assert [len(split) for split in splits] == [9, 9, 3]
    for split in splits:
        for i in range(len(split)):
            image, label = split[i]
            assert image.shape == (3, 16, 16)
            colour = torch.tensor(list(COLOURS.values())[label])
            assert (image.float().mean((1, 2)) - colour).abs().max() < 3  # JPEG is not exact
            assert split.path(i).parent.name == list(COLOURS)[label]


def test_what_is_read_is_a_function_of_seed_epoch_and_sample(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    for path in folder.glob("train/*/*.png"):
        Image.fromarray(pixels).save(path)
    first, labels = batches(folder, shuffle=False)
    assert labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    again, _ = batches(folder, shuffle=False, batch_size=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, batches(folder, 1, shuffle=False)[0])
    assert not torch.equal(first[1], first[2])
    plain, _ = batches(folder, shuffle=False, augment=False)
    assert torch.equal(plain[1], plain[2])
    dataset = ImageFolder(folder, size=16).splits.train
    sent = pickle.loads(pickle.dumps(dataset))
    assert [sent.path(i) for i in range(9)] == [dataset.path(i) for i in range(9)]


@pytest.mark.slow
def test_workers_read_the_same(folder: Path) -> None:
    for mine, theirs in zip(batches(folder), batches(folder, num_workers=2), strict=True):
        assert torch.equal(mine, theirs)


def test_a_batch_on_its_device(folder: Path) -> None:
    data = ImageFolder(folder, size=16, batch_size=4)
    data.trainer = jobs.trainer()
    images, labels = next(iter(data.val_dataloader()))  # pyright: ignore
    assert images.dtype == torch.uint8
    floats, same = data.on_after_batch_transfer((images, labels), 0)
    assert torch.equal(floats, images.float() / 255)
    assert same is labels
    assert torch.equal(data.on_after_batch_transfer(images, 0), floats)
    own = ImageFolder(folder, train_view=lambda picture: torch.tensor(picture.size))
    assert own.splits.train[0][0].tolist() == [20, 30]
    assert own.on_after_batch_transfer(own.splits.train[0][0], 0).tolist() == [20, 30]


def refused(what: Any) -> str:
    with pytest.raises(InputError) as error:
        what()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_mistakes_in_one_line(folder: Path) -> None:
    assert "has no folder train" in refused(lambda: ImageFolder(folder / "train").splits)
    assert "has 3 classes, a folder each, and data.num_classes=4" in refused(
        lambda: ImageFolder(folder, num_classes=4).splits
    )
    damaged = folder / "train" / "blue" / "ä1.png"
    whole = damaged.read_bytes()
    for content in (b"no picture", whole[: len(whole) - 30], b""):
        damaged.write_bytes(content)
        dataset = ImageFolder(folder).splits.train
        at = next(i for i in range(9) if dataset.path(i) == damaged)
        assert refused(lambda d=dataset, i=at: d[i]).startswith(f"sample {at}: {damaged} cannot be read as a picture: ")
    (folder / "val" / "yellow").mkdir()
    assert refused(lambda: ImageFolder(folder).splits).endswith(
        "a folder 'yellow', a class that the folder train has not"
    )
    for path in folder.glob("train/*/*"):
        path.unlink()
    assert "have no pictures; what counts as one ends with .jpg" in refused(lambda: ImageFolder(folder).splits)


def test_pictures_of_any_kind_are_as_they_look(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """16 bits are not cut off at 255, and what a camera held upright stands upright."""
    grey = np.linspace(0, 255, 32 * 32).astype(np.uint8).reshape(32, 32)
    place = folder / "train" / "blue"
    for old in place.iterdir():
        old.unlink()
    turned = Image.Exif()
    turned[0x0112] = 6  # turn it by 90 degrees to the right
    Image.fromarray(grey).save(place / "a.PNG")
    Image.fromarray(grey.astype(np.uint16) * 257).save(place / "b.png")
    Image.fromarray(np.rot90(grey)).save(place / "c.png", exif=turned)
    pictures = ImageFolder(folder, size=32, augment=False).splits.train
    for index in range(3):
        assert torch.equal(pictures[index][0], torch.from_numpy(grey).expand(3, 32, 32)), index
    for old in place.iterdir():
        old.unlink()
    assert ImageFolder(folder).splits.train is not None
    assert "train has no pictures in 1 of its classes: blue" in caplog.text
    Image.fromarray(grey.astype(np.float32)).save(place / "f.tif")
    pictures = ImageFolder(folder, size=32, augment=False).splits.train
    assert "f.tif is a picture of 32 bits" in refused(lambda: pictures[0])
