"""Text as files of tokens, in nanoGPT's format, of any length: `train.bin`, `val.bin` and `test.bin` in a folder."""

from pathlib import Path
from typing import Any

from metronome.data.module import DataModule
from metronome.data.splits import Splits
from metronome.data.stored.token_files import Documents, PackedTokens, TokenFile, document_starts
from metronome.units import InputError, check_number

_WAYS, _TYPES = ("packed", "padded"), ("uint16", "uint32")


class Tokens(DataModule):
    """The tokens of documents, one after the other, an end token behind each.

    A batch is `{"input_ids", "labels"}`, int64 of shape (samples, length): at each token the next one is to be
    predicted, and -100 is no label. `LanguageModel` of `+experiment=tokens` has such, and weighs a loss by its labels.

    Args:
        folder: with `train.bin`, and `val.bin` and `test.bin` where there are such: nothing but numbers of `dtype`.
        num_tokens: kinds of tokens.
        max_length: the most tokens of a sample; nanoGPT's `block_size`.
        documents: `packed`: a sample is the next `max_length` tokens, over the ends of documents. `padded`: a sample is
            one document, or a piece of a longer one, padded to the longest of its batch. Either way each token is
            predicted once an epoch, but for the first of a file that is packed.
        end_token: which token is behind each document; only `padded` needs to know.
        dtype: `uint16` or `uint32`.
        options: those of DataModule.
    """

    def __init__(
        self,
        folder: str | Path,
        num_tokens: int = 50_257,
        max_length: int = 1024,
        documents: str = "packed",
        end_token: int | None = None,
        dtype: str = "uint16",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_number("data.num_tokens", num_tokens, "tokens")
        check_number("data.max_length", max_length, "tokens")
        if documents not in _WAYS:
            raise InputError(f"data.documents={documents!r} is neither packed nor padded")
        if dtype not in _TYPES:
            raise InputError(f"data.dtype={dtype!r} is neither uint16 nor uint32")
        if end_token is not None:
            check_number("data.end_token", end_token, "a token", least=0)
            if end_token >= num_tokens:
                raise InputError(f"data.end_token={end_token} is none of the tokens below data.num_tokens={num_tokens}")
        elif documents == "padded":
            raise InputError("data.documents=padded needs data.end_token, which is behind each document")
        self.folder, self.num_tokens, self.max_length = Path(folder).expanduser(), num_tokens, max_length
        self.documents, self.end_token, self.dtype = documents, end_token, dtype

    def known_num_samples(self) -> int | None:
        """Without looking at any token, where documents are packed."""
        path = self._path("train")
        return len(PackedTokens(self._file(path), self.max_length)) if self._is_packed and path.exists() else None

    def prepare_data(self) -> None:
        if not self._is_packed:
            for path in filter(Path.exists, map(self._path, Splits._fields)):
                self._samples(path)

    def load(self) -> Splits:
        if not self._path("train").exists():
            raise InputError(
                f"{self.folder} has no train.bin; put files of tokens there, or name their folder: data.folder=..."
            )
        paths = map(self._path, Splits._fields)
        return Splits(*(self._samples(path) if path.exists() else None for path in paths))

    @property
    def _is_packed(self) -> bool:
        return self.documents == "packed"

    def _path(self, split: str) -> Path:
        return self.folder / f"{split}.bin"

    def _file(self, path: Path) -> TokenFile:
        return TokenFile(path, self.dtype, self.num_tokens)

    def _samples(self, path: Path) -> PackedTokens | Documents:
        file = self._file(path)
        if self._is_packed:
            return PackedTokens(file, self.max_length)
        assert self.end_token is not None
        return Documents(file, document_starts(file, self.end_token, self.max_length), self.end_token)
