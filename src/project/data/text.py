"""Python's own manual, which comes with Python: real text in documents of unequal lengths, with nothing to download."""

from collections.abc import Sequence
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from metronome.data import DataModule, Splits
from metronome.units import check_number


class Text(DataModule):
    """The paragraphs of what `help()` says on topics such as `assert`: with Python 3.11, 4,048 documents of 369,401
    characters, split at random into 3,240 to train, 404 to validate, 404 to test. Other versions differ a little.

    A token is a character: its number in ASCII, of which there are 128; the few others (0.1 %) become "?". Token 0 is
    where a document begins and ends. What is to be predicted at each token is the next one, the end included.

    A batch is `{"input_ids", "labels"}`, both int64 of shape (samples, length of the longest document): `input_ids` are
    padded with 0, `labels` with -100, which `cross_entropy` leaves out.

    Args:
        max_length: the most tokens of a document, its end included; a longer paragraph is cut into several.
        options: those of DataModule.
    """

    def __init__(self, max_length: int = 128, **options: Any) -> None:
        super().__init__(**options)
        check_number("data.max_length", max_length, "tokens", least=2)
        self.max_length = max_length
        self.collate = padded

    def load(self) -> Splits:
        size = self.max_length - 1
        paragraphs = [paragraph for name in sorted(topics) for paragraph in topics[name].split("\n\n")]
        pieces = [text[start : start + size] for text in paragraphs for start in range(0, len(text), size)]
        # Some paragraphs are in several topics; what is tested must not have been trained on.
        documents = [torch.tensor(list(text.encode("ascii", "replace"))) for text in dict.fromkeys(pieces)]
        # The split is part of the data: the same for every seed of a run.
        order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(0)).tolist()
        tenth = len(documents) // 10
        parts = order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth]
        return Splits(*([documents[i] for i in part] for part in parts))


def padded(documents: Sequence[Tensor]) -> dict[str, Tensor]:
    """A batch of documents, each a tensor of its characters, as `Text` describes it."""
    tokens = [pad(document, (1, 1)) for document in documents]
    return {
        "input_ids": pad_sequence([document[:-1] for document in tokens], batch_first=True),
        "labels": pad_sequence([document[1:] for document in tokens], batch_first=True, padding_value=-100),
    }
