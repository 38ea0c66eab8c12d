"""The numbers of `numpy.random.SeedSequence`, for many keys at once.

A SeedSequence takes 10 us, most of it Python; here its arithmetic is done for a whole array of keys. The numbers are
the same, bit for bit, which a test compares.

Source: M. O'Neill (2015), "Developing a seed_seq Alternative", as in numpy's _bit_generator.pyx.
"""

from functools import lru_cache

import numpy as np

_POOL = 4
_INIT_A, _MULT_A, _INIT_B, _MULT_B = 0x43B0D7E5, 0x931E8875, 0x8B51F9DD, 0x58F38DED
_MIX_L, _MIX_R, _SHIFT, _WORD = np.uint32(0xCA01F9DD), np.uint32(0x4973F715), np.uint32(16), 0xFFFFFFFF


def stream_words(seed: int, epoch: int, stream: int, keys: np.ndarray, *rest: int) -> np.ndarray:
    """`SeedSequence((seed, epoch), spawn_key=(stream, key, *rest)).generate_state(4)` for each key.

    Args:
        seed, epoch, stream, rest: below 2**32.
        keys: uint64, shape (keys,).

    Returns:
        uint32, shape (keys, 4).
    """
    pool = _begun(seed, epoch, stream)
    low, high = keys.astype(np.uint32), (keys >> np.uint64(32)).astype(np.uint32)
    if not high.any():
        return pool.with_words(low, *rest).state(len(keys))
    state = np.empty((len(keys), 4), dtype=np.uint32)
    two = high > 0  # numpy takes these for two words, the lower first
    for some, words in ((two, (low[two], high[two])), (~two, (low[~two],))):
        state[some] = pool.with_words(*words, *rest).state(int(np.count_nonzero(some)))
    return state


@lru_cache(maxsize=16)
def _begun(seed: int, epoch: int, stream: int) -> "_Pool":
    """What all keys have in common; numpy fills the pool up before a spawn key."""
    return _Pool([], _INIT_A).with_words(seed, epoch, 0, 0, stream)


class _Pool:
    """Four numbers into which words are mixed, one after the other; each an array over keys, or one for all."""

    def __init__(self, pool: list[np.ndarray], constant: int) -> None:
        self.pool, self.constant = pool, constant

    def with_words(self, *words: np.ndarray | int) -> "_Pool":
        """Another pool, with these mixed in."""
        mixed = _Pool(list(self.pool), self.constant)
        for word in words:
            mixed._take(np.full(1, word, dtype=np.uint32) if isinstance(word, int) else word)
        return mixed

    def _take(self, word: np.ndarray) -> None:
        if len(self.pool) == _POOL:
            self.pool = [_mixed(value, self._hashed(word)) for value in self.pool]
            return
        self.pool.append(self._hashed(word))
        if len(self.pool) == _POOL:
            for source in range(_POOL):
                for target in range(_POOL):
                    if source != target:
                        self.pool[target] = _mixed(self.pool[target], self._hashed(self.pool[source]))

    def _hashed(self, value: np.ndarray) -> np.ndarray:
        value = value ^ np.uint32(self.constant)
        self.constant = self.constant * _MULT_A & _WORD
        value = value * np.uint32(self.constant)
        return value ^ (value >> _SHIFT)

    def state(self, keys: int) -> np.ndarray:
        """Four words for each key: uint32, shape (keys, 4)."""
        constant, state = _INIT_B, np.empty((keys, _POOL), dtype=np.uint32)
        for i, word in enumerate(self.pool):
            value = word ^ np.uint32(constant)
            constant = constant * _MULT_B & _WORD
            value = value * np.uint32(constant)
            state[:, i] = value ^ (value >> _SHIFT)
        return state


def _mixed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    value = a * _MIX_L - b * _MIX_R
    return value ^ (value >> _SHIFT)
