"""Blocks of slots: whoever takes some has them alone until they are given back."""

import random

import pytest

from flagai.generation.blocks import BLOCK, BlockPool, slots_of


@pytest.mark.parametrize("seed", range(5))
def test_no_block_is_handed_out_twice(seed: int) -> None:
    chance, pool = random.Random(seed), BlockPool(9)
    taken: list[list[int]] = []
    for _ in range(2000):
        used = {block for blocks in taken for block in blocks}
        assert len(used) == sum(map(len, taken))
        assert used <= set(range(1, pool.num_blocks))
        assert pool.num_free == pool.num_blocks - 1 - len(used)
        way = chance.random()
        if way < 0.55:
            count = chance.randint(0, 12)
            found = pool.take(count)
            assert (found is None) == (count > pool.num_blocks - 1 - len(used))
            if found is not None:
                assert len(found) == count
                taken.append(found)
        elif way < 0.95 and taken:
            blocks = taken.pop(chance.randrange(len(taken)))
            chance.shuffle(blocks)
            pool.give_back(blocks)
        elif pool.num_blocks < 60:
            pool.grow(pool.num_blocks + chance.randint(0, 9))
    for blocks in taken:
        pool.give_back(blocks)
    # All that is free is one range again.
    assert pool.take(pool.num_blocks - 1) == list(range(1, pool.num_blocks))
    assert pool.take(1) is None


def test_blocks_are_handed_out_in_one_piece_where_there_is_one() -> None:
    pool = BlockPool(21)
    first, second, third = pool.take(3), pool.take(4), pool.take(5)
    assert first is not None
    assert second is not None
    pool.give_back(second)
    pool.give_back(first)
    assert pool.take(7) == list(range(1, 8)), "neighbours are one range, whoever had them"
    assert third == list(range(8, 13))
    assert pool.take(8) == list(range(13, 21))
    pool.give_back([3, 5, 9])
    assert sorted(pool.take(2) or []) in ([3, 5], [3, 9], [5, 9])


def test_a_pool_that_grows_joins_the_new_blocks_to_the_last_ones() -> None:
    pool = BlockPool(5)
    assert pool.take(2) == [1, 2]
    pool.grow(8)
    assert pool.num_free == 5
    assert pool.take(5) == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("count", [0, 1])
def test_the_scratch_slot_is_never_handed_out(count: int) -> None:
    pool = BlockPool(count)
    assert pool.num_free == 0
    assert pool.take(1) is None
    pool.grow(2)
    assert pool.take(1) == [1]
    assert 0 not in slots_of([1])


def test_slots_of_neighbours_are_consecutive() -> None:
    assert slots_of([2, 3]).tolist() == list(range(2 * BLOCK, 4 * BLOCK))
    assert not len(slots_of([]))
