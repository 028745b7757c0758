"""How much a client of HTTP/2 may cost that asks for nothing."""

from noctule.gateway.patience import CAPACITY, REFILL_PER_S, REFUND, Patience


def test_it_is_used_up_and_time_gives_it_back() -> None:
    patience = Patience(10.0)
    patience.use(CAPACITY)
    assert not patience.is_used_up(10.0)
    patience.use(1)
    assert patience.is_used_up(10.0)
    assert not patience.is_used_up(10.0 + 2 / REFILL_PER_S)


def test_time_gives_no_more_than_there_was() -> None:
    patience = Patience(0.0)
    assert not patience.is_used_up(1e6)
    patience.use(CAPACITY + 1)
    assert patience.is_used_up(1e6)


def test_frames_that_were_taken_pay_for_the_windows_opened_for_them() -> None:
    patience = Patience(0.0)
    for _ in range(100 * CAPACITY):
        patience.refund()
        patience.use(REFUND)
    assert not patience.is_used_up(0.0)
