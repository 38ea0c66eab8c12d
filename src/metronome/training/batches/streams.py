"""The numbers of `numpy.random.SeedSequence`, for many keys at once.

A SeedSequence takes 10 us, most of it Python; here its arithmetic is done for a whole array of keys. The numbers are
the same, bit for bit, which a test compares.

Source: M. O'Neill (2015), "Developing a seed_seq Alternative", as in numpy's _bit_generator.pyx.
"""

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
    low, high = keys.astype(np.uint32), (keys >> np.uint64(32)).astype(np.uint32)
    if not high.any():
        return _state(_pool(_words(seed, epoch, stream, low, *rest)))
    state = np.empty((len(keys), 4), dtype=np.uint32)
    two = high > 0  # numpy takes these for two words, the lower first
    state[two] = _state(_pool(_words(seed, epoch, stream, low[two], high[two], *rest)))
    if not two.all():
        state[~two] = _state(_pool(_words(seed, epoch, stream, low[~two], *rest)))
    return state


def _words(seed: int, epoch: int, stream: int, low: np.ndarray, *more: np.ndarray | int) -> list[np.ndarray]:
    words = (seed, epoch, 0, 0, stream, low, *more)  # numpy fills the pool up before a spawn key
    return [np.full(len(low), word, dtype=np.uint32) if isinstance(word, int) else word for word in words]


def _pool(words: list[np.ndarray]) -> list[np.ndarray]:
    constant = _INIT_A

    def hashed(value: np.ndarray) -> np.ndarray:
        nonlocal constant
        value = value ^ np.uint32(constant)
        constant = constant * _MULT_A & _WORD
        value = value * np.uint32(constant)
        return value ^ (value >> _SHIFT)

    def mixed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        value = a * _MIX_L - b * _MIX_R
        return value ^ (value >> _SHIFT)

    pool = [hashed(word) for word in words[:_POOL]]
    for source in range(_POOL):
        for target in range(_POOL):
            if source != target:
                pool[target] = mixed(pool[target], hashed(pool[source]))
    for word in words[_POOL:]:
        for target in range(_POOL):
            pool[target] = mixed(pool[target], hashed(word))
    return pool


def _state(pool: list[np.ndarray]) -> np.ndarray:
    constant, state = _INIT_B, []
    for word in pool:
        value = word ^ np.uint32(constant)
        constant = constant * _MULT_B & _WORD
        value = value * np.uint32(constant)
        state.append(value ^ (value >> _SHIFT))
    return np.stack(state, axis=1)
