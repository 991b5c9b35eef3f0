"""Threefry's bits: the published vectors, and which of them a token id gets, and a block of ids."""

from __future__ import annotations

import numpy as np
import pytest

from zif.contract.ops.threefry import block_uniform, seed_words, threefry2x32, uniform

RANDOM123 = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]
"""(counter, key, words), from the known answers of Random123, the authors' library: threefry2x32, 20 rounds."""


@pytest.mark.parametrize(("counter", "key", "words"), RANDOM123)
def test_known_answers(counter: tuple[int, int], key: tuple[int, int], words: tuple[int, int]) -> None:
    arguments = (np.array([value], np.uint32) for value in (*key, *counter))
    assert tuple(int(word[0]) for word in threefry2x32(*arguments)) == words


@pytest.mark.parametrize("vocab", [1, 128, 129, 256, 700])
def test_ids_that_differ_in_bit_seven_share_a_counter(vocab: int) -> None:
    seed = np.array([[1, 2], [-3, 4]], np.int32)
    position = np.array([0, 70000], np.int32)
    got = uniform(seed, position, vocab)
    assert got.shape == (2, vocab)
    for row in range(2):
        key0, key1 = seed[row].view(np.uint32)
        for token in range(vocab):
            counter = np.array([token - 128 if token & 128 else token], np.uint32)
            words = threefry2x32(key0, key1, position[row].astype(np.uint32), counter)
            word = int(words[1 if token & 128 else 0][0])
            assert got[row, token] == ((word >> 9) + 0.5) / 2**23


def test_blocks_have_counters_beyond_those_of_ids() -> None:
    seed, position = np.array([[-3, 4]], np.int32), np.array([70000], np.int32)
    got = block_uniform(seed, position, 3)
    assert got.shape == (1, 3)
    key0, key1 = seed[0].view(np.uint32)
    for block in range(3):
        word = int(threefry2x32(key0, key1, np.uint32(70000), np.array([2**31 + block], np.uint32))[0][0])
        assert got[0, block] == ((word >> 9) + 0.5) / 2**23


def test_what_seeds_draw_is_pinned() -> None:
    """The bits are part of what backends share: a change of these numbers is a change of every seeded answer."""
    got = uniform(np.array([seed_words(1234)], np.int32), np.array([5], np.int32), 512)[0]
    words = (got[[0, 1, 127, 128, 255, 256, 511]] * 2**23 - 0.5).astype(int)
    assert words.tolist() == [3824765, 3120244, 6524580, 5329874, 4290045, 6063200, 579751]
    got = block_uniform(np.array([seed_words(1234)], np.int32), np.array([5], np.int32), 600)[0]
    assert (got[[0, 1, 599]] * 2**23 - 0.5).astype(int).tolist() == [2536370, 2271694, 2998939]
