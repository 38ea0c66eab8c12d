"""A permutation of any number of things, of which any few places are computed without the others.

A number below a x b is a pair (left, right) of one below a and one below b. A round adds a hash of one half, keyed, to
the other half, modulo a or b; whatever the hash, that can be taken back, so any rounds are a permutation of the a x b
numbers (a generalised Feistel network). With a and b next to the root of N, a x b is N or a little more; what falls
outside of N is sent through again until it falls inside, which leaves a permutation of N (cycle-walking).

Sources: J. Black, P. Rogaway (2002), "Ciphers with Arbitrary Finite Domains"; the hash is what SplitMix64 ends with
(G. Steele, D. Lea, C. Flood (2014), "Fast Splittable Pseudorandom Number Generators").
"""

from collections.abc import Sequence
from math import isqrt

import numpy as np

# With 3 rounds the samples of a stretch are too evenly spread; with 4 and 5, among all pairs that share a half, twice
# too many keep their distance (J. Patarin (2010), "Generic Attacks on Feistel Schemes"). 6 show nothing: two to spare.
ROUNDS = 8
_MULT_A, _MULT_B, _HALF = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB), np.uint64(32)
_AT_ONCE = 8192  # what is worked on then stays in the nearest cache


class Permutation:
    """A permutation of the whole numbers below `size`, as a function of the place.

    Time and memory are those of the places asked for, whatever the size.

    Args:
        size: from 1 to 2**63 - 1.
        keys: one for each round, below 2**64; they decide which permutation it is. `ROUNDS` of them are enough; for a
            handful of things, of which a short test sees every order, 16.
    """

    def __init__(self, size: int, keys: Sequence[int]) -> None:
        assert 1 <= size < 2**63, size
        left = isqrt(size - 1) + 1
        self.size, self.left, self.right = np.uint64(size), np.uint64(left), np.uint64(-(-size // left))
        self.keys = [np.uint64(key) for key in keys]

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """What stands at these places: int64, of the same shape.

        Args:
            places: int64, any shape, each from 0 to size - 1.
        """
        flat = places.reshape(-1)
        found = np.empty(len(flat), dtype=np.uint64)
        for start in range(0, len(flat), _AT_ONCE):
            numbers = self._sent_through(flat[start : start + _AT_ONCE].astype(np.uint64))
            while len(outside := np.flatnonzero(numbers >= self.size)):
                numbers[outside] = self._sent_through(numbers[outside])
            found[start : start + _AT_ONCE] = numbers
        return found.view(np.int64).reshape(places.shape)

    def _sent_through(self, numbers: np.ndarray) -> np.ndarray:
        """All rounds, for numbers below left x right: uint64, shape (numbers,)."""
        left = numbers // self.right
        right = numbers - left * self.right
        added, spare = np.empty_like(left), np.empty_like(left)
        source, changed, below, other = left, right, self.right, self.left
        for key in self.keys:
            np.bitwise_xor(source, key, out=added)
            added *= _MULT_A
            added ^= np.right_shift(added, _HALF, out=spare)
            added *= _MULT_B
            # The upper 32 bits as a fraction, times `below`: a number below it, without a division.
            added >>= _HALF
            added *= below
            added >>= _HALF
            changed += added
            # Less `below` where that is not negative: a negative one has wrapped around and is the larger of the two.
            np.minimum(changed, np.subtract(changed, below, out=spare), out=changed)
            source, changed, below, other = changed, source, other, below
        return left * self.right + right
