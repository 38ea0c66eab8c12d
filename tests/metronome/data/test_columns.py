"""Arrays of any kind of number, frames and series: which tensor each becomes, and what is said of those that cannot."""

from typing import Any

import numpy as np
import pytest
import torch

from metronome.data import Rows
from metronome.data.columns import as_tensor
from metronome.units import InputError

_ROWS = [[1, 0], [2, 1], [3, 1]]
LONG, INT, SHORT = torch.int64, torch.int32, torch.int16


@pytest.mark.parametrize(
    ("kind", "of_rows", "of_labels"),
    [
        ("i1", torch.int8, LONG), ("i2", SHORT, LONG), ("i4", INT, LONG), ("i8", LONG, LONG),
        ("u1", torch.uint8, torch.uint8), ("u2", INT, LONG), ("u4", LONG, LONG), ("u8", LONG, LONG),
        ("f2", torch.float16, torch.float16), ("f4", torch.float32, torch.float32), ("g", torch.float64, torch.float64),
        ("?", torch.bool, torch.bool), (">f8", torch.float64, torch.float64), (">f4", torch.float32, torch.float32),
        (">i4", INT, LONG), (">u2", INT, LONG), ("c8", torch.complex64, torch.complex64),
    ],
)  # fmt: skip
def test_every_kind_of_number_is_taken(kind: str, of_rows: torch.dtype, of_labels: torch.dtype) -> None:
    """With its values, in a type that PyTorch takes rows of; one whole number a sample is a label."""
    array = np.array(_ROWS).astype(kind)
    for given, dtype in ((array, of_rows), (array[:, 0], of_labels), (array[::-1, 0], of_labels)):
        (rows,) = Rows((given,))[torch.tensor([2, 0])]
        assert rows.dtype == dtype
        assert rows.tolist() == given[[2, 0]].tolist()


def test_tensors_that_pytorch_hardly_computes_with() -> None:
    assert as_tensor(torch.tensor([1, 2], dtype=torch.uint16)).dtype == LONG
    assert as_tensor(torch.tensor([[1, 2]], dtype=torch.uint32)).dtype == LONG
    assert as_tensor(torch.tensor([1, 2], dtype=torch.int32)).dtype == LONG


def test_memory_is_shared_where_it_can_be(recwarn: pytest.WarningsRecorder) -> None:
    """An array that must not be written to as well, without a warning."""
    array = np.arange(6.0).reshape(3, 2)
    array.flags.writeable = False
    assert as_tensor(array).data_ptr() == array.ctypes.data
    assert not recwarn.list


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array(["cat", "dog"]), "text ('cat'); encode it before it is split: numpy.unique(y, return_inverse=True)"),
        (np.array([3, "dog"], dtype=object), "text ('dog'); encode it"),
        (
            np.array([1, 2.5], dtype=object),
            "objects of the type int; make numbers of them, as with x.astype('float32')",
        ),
        (np.array(["2026-01-01"], dtype="M8[D]"), "datetime64[D]; make numbers of it, or leave it out"),
        (np.array([2**63], dtype="u8"), "uint64 numbers from 2**63 up"),
    ],
)
def test_what_holds_no_numbers_is_one_line(array: np.ndarray, words: str) -> None:
    with pytest.raises(InputError) as error:
        as_tensor(array)
    assert words in str(error.value)


# ---- frames, of whichever library is there ------------------------------------------------------------------


class Series:
    """What a series of pandas and of polars have in common."""

    def __init__(self, name: str, values: Any) -> None:
        self.name, self.values = name, np.asarray(values)
        self.dtype = self.values.dtype

    def __len__(self) -> int:
        return len(self.values)

    def to_numpy(self) -> np.ndarray:
        return self.values


class Frame:
    """What their frames have in common, and how polars gives its columns."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self.columns, self.series = list(columns), [Series(*column) for column in columns.items()]
        self.shape = len(self.series[0]), len(self.columns)

    def __len__(self) -> int:
        return self.shape[0]

    def to_numpy(self) -> np.ndarray:
        return np.column_stack([series.to_numpy() for series in self.series])

    def iter_columns(self) -> Any:
        return iter(self.series)


def frame_of(library: str, columns: dict[str, Any]) -> Any:
    if library == "none":
        return Frame(columns)
    module = pytest.importorskip(library)
    return module.DataFrame(columns)


def series_of(library: str, name: str, values: Any) -> Any:
    if library == "none":
        return Series(name, values)
    module = pytest.importorskip(library)
    return module.Series(name=name, **{"data" if library == "pandas" else "values": values})


@pytest.fixture(params=["none", "pandas", "polars"])
def library(request: pytest.FixtureRequest) -> str:
    return request.param


def test_a_frame_of_numbers(library: str) -> None:
    """The numbers of all columns in one type; labels beside them."""
    x = frame_of(library, {"age": [20, 30, 40], "height": [1.5, 1.75, 2.0], "member": [True, False, True]})
    y = series_of(library, "kind", np.array([2, 0, 1], dtype=np.int16))
    inputs, labels = Rows((x, y))[torch.tensor([2, 0])]
    assert torch.equal(inputs, torch.tensor([[40.0, 2.0, 1.0], [20.0, 1.5, 1.0]], dtype=torch.float64))
    assert torch.equal(labels, torch.tensor([1, 2]))
    assert Rows(frame_of(library, {"a": [1, 2], "b": [3, 4]}))[0].tolist() == [1, 3]


def test_missing_values_name_their_columns(library: str) -> None:
    nan = float("nan")
    columns = {"age": [20.0, nan, nan], "height": [1.5, 1.75, 2.0], "income": [nan, 1.0, 2.0]}
    with pytest.raises(InputError) as error:
        Rows(frame_of(library, columns))
    assert str(error.value) == (
        "values are missing: 2 in column 'age', 1 in column 'income', of 3 rows; fill them, as with x.fillna(x.mean()) "
        "of the training rows, or drop them, as with x.dropna(); where NaN is meant, give x.to_numpy()"
    )
    assert np.isnan(Rows(frame_of(library, columns).to_numpy()).columns).sum() == 3


def test_text_names_its_column(library: str) -> None:
    for values in (["Rome", "Oslo"], [None, "Oslo"]):
        columns = {"age": [20, 30], "city": np.array(values, dtype=object) if library == "none" else values}
        with pytest.raises(InputError) as error:
            Rows(frame_of(library, columns))
        assert "column 'city' of a data set must hold numbers, and holds text" in str(error.value)
        assert "leave it out, or encode it: pandas.get_dummies(x, dtype=float)" in str(error.value)
    with pytest.raises(InputError) as error:
        Rows(series_of(library, "kind", ["cat", "dog"]))
    assert "column 'kind' of a data set must hold numbers, and holds text ('cat'); encode it" in str(error.value)


def test_masked_values_are_missing() -> None:
    """What lies below a mask is no value."""
    array = np.ma.masked_array(np.ones((3, 2)), mask=[[0, 1]] * 3)  # pyright: ignore
    with pytest.raises(InputError, match=r"^values are missing: 3 of an array are masked; fill them"):
        as_tensor(array)
    assert as_tensor(array.filled(0)).sum() == 3
    assert as_tensor(np.ma.masked_array(np.ones(3))).sum() == 3


def test_a_series_without_a_name() -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(InputError, match=r"^a column of a data set must hold numbers, and holds text \('cat'\)"):
        as_tensor(pandas.Series(["cat"]))
    with pytest.raises(InputError, match=r"^values are missing: 1 in a column, of 2 rows"):
        as_tensor(pandas.Series([1.0, None]))


def test_what_pandas_alone_has() -> None:
    pandas = pytest.importorskip("pandas")
    whole = pandas.array([1, 2, 3], dtype="Int64")
    assert as_tensor(pandas.Series(whole)).dtype == LONG
    assert as_tensor(pandas.Series([True, False], dtype="boolean")).dtype == torch.bool
    assert as_tensor(pandas.Series([3, 5, 3]).astype("category")).tolist() == [3, 5, 3]
    twice = pandas.concat([pandas.DataFrame({"a": whole}), pandas.DataFrame({"a": [0.5, 1, 2]})], axis=1)
    assert as_tensor(twice).tolist() == [[1, 0.5], [2, 1], [3, 2]]
    for lacking in (pandas.array([1, None], dtype="Int64"), pandas.array([True, None], dtype="boolean")):
        with pytest.raises(InputError, match="values are missing: 1 in column 'n', of 2 rows"):
            as_tensor(pandas.Series(lacking, name="n"))
    with pytest.raises(InputError, match="a frame of a data set has no columns"):
        as_tensor(pandas.DataFrame({"a": [1]})[[]])
