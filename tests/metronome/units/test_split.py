import pytest

from metronome.units import even_split, share_size


@pytest.mark.parametrize(
    ("count", "parts", "sizes"),
    [
        (10, 1, [10]),
        (10, 2, [5, 5]),
        (10, 3, [4, 3, 3]),
        (10, 4, [3, 3, 2, 2]),
        (3, 5, [1, 1, 1, 0, 0]),
        (0, 2, [0, 0]),
    ],
)
def test_pieces(count, parts, sizes):
    assert even_split(count, parts) == sizes
    assert [share_size(count, parts, index) for index in range(parts)] == sizes
