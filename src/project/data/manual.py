"""Python's own manual as files of tokens, written from what comes with Python: a data set of tokens of one's own."""

import os
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch

from metronome.data import Splits, Tokens

END = 0  # no character of the text


class Manual(Tokens):
    """What `help()` says on topics such as `assert`, a document each: with Python 3.11, 64 topics of 332,336 tokens to
    train, 7 of 16,393 to validate, 7 of 27,872 to test. A paragraph that is in several is in the first of them alone.

    A token is a character: its number in ASCII, of which there are 128; the few others (0.1 %) become "?".

    Args:
        folder: where the files are, or are written.
        options: those of Tokens.
    """

    def __init__(self, folder: str = "datasets/manual", **options: Any) -> None:
        super().__init__(folder, **{"num_tokens": 128, "end_token": END, **options})

    def prepare_data(self) -> None:
        if not all(self._path(split).exists() for split in Splits._fields):
            self.folder.mkdir(parents=True, exist_ok=True)
            for split, documents in zip(Splits._fields, _documents(), strict=True):
                tokens = np.frombuffer(b"".join(text + bytes([END]) for text in documents), np.uint8)
                part = self.folder / f"{split}.{os.getpid()}.part"
                tokens.astype(self.dtype).tofile(part)
                os.replace(part, self._path(split))
        super().prepare_data()


def _documents() -> tuple[list[bytes], list[bytes], list[bytes]]:
    """To train, to validate and to test: the same for every seed of a run."""
    seen: set[str] = set()
    texts = []
    for name in sorted(topics):
        own = [part for part in dict.fromkeys(topics[name].split("\n\n")) if part not in seen]
        seen.update(own)
        if own:
            texts.append("\n\n".join(own).encode("ascii", "replace"))
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    tenth = len(texts) // 10
    train, val, test = order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth]
    return [texts[i] for i in train], [texts[i] for i in val], [texts[i] for i in test]
