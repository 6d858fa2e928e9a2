import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightframe.errors import UserError
from tightframe.geometry.ledger import Ledger

blocks = st.sets(st.integers(0, 30))


def ledger_of(members):
    ledger = Ledger()
    for block in members:
        ledger.add(block, block + 1)
    return ledger


def members_of(spans):
    return {block for first, end in spans for block in range(first, end)}


@given(blocks)
def test_a_ledger_is_the_set_of_its_blocks_in_whatever_order_they_came(members):
    ledger = ledger_of(members)
    assert members_of(ledger.spans) == members
    assert ledger.n_blocks == len(members)
    assert members_of(ledger.missing(31)) == set(range(31)) - members
    # Neighbours are joined: no span begins where another ends.
    assert all(b[0] > a[1] for a, b in zip(ledger.spans, ledger.spans[1:], strict=False))


@given(blocks, blocks)
def test_ledgers_join_if_they_share_no_block(one, other):
    if one & other:
        with pytest.raises(UserError, match="are in both states"):
            ledger_of(one).joined(ledger_of(other))
    else:
        joined = ledger_of(one).joined(ledger_of(other))
        assert joined.spans == ledger_of(one | other).spans


@given(blocks, st.integers(0, 30), st.integers(1, 5))
def test_a_span_is_covered_if_all_of_its_blocks_are_there(members, first, n):
    covered = ledger_of(members).covers(first, first + n)
    assert covered == (set(range(first, first + n)) <= members)


def test_an_overlap_is_named_and_changes_nothing():
    ledger = Ledger([(0, 4), (8, 10)])
    with pytest.raises(UserError, match="blocks 8 to 8 are in both"):
        ledger.add(6, 9)
    assert ledger.spans == [(0, 4), (8, 10)]
    with pytest.raises(ValueError, match="first < end"):
        ledger.add(5, 5)


def test_blocks_of_two_splits_are_not_the_same_blocks():
    one, other = Ledger([(0, 4)], "one"), Ledger([(0, 4)], "other")
    both = one.joined(other)
    assert both.spans == []
    assert both.joined(one).spans == []
    assert one.joined(Ledger([(4, 6)], "one")).spans == [(0, 6)]
    with pytest.raises(UserError, match="in both states"):
        one.joined(Ledger([(3, 6)]))
