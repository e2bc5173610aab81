"""Signals that end a command: the error reaches the main thread wherever it comes, and handlers are as they were found."""

import gc
import signal
import sys
import time
import weakref

import jax.numpy as jnp
import pytest

from cvmae.parallel import signals
from cvmae.training.preemption import TERMINATED, ending_on_sigterm


class Ended(BaseException):
    """What the handler raises."""


@pytest.fixture
def handled(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Finalizable:
    pass


class Finalized:
    def __init__(self, number):
        self.number = number

    def __del__(self):
        signal.raise_signal(self.number)


def in_a_callback(number):
    sent = []

    def callback(phase, info):
        """As JAX has one; Python prints an error of it and continues."""
        if not sent:
            sent.append(number)
            signal.raise_signal(number)

    gc.callbacks.append(callback)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(callback)


def in_a_finalizer(number):
    Finalized(number)


def where_an_object_is_gone(number):
    """As a weak dictionary hears of its keys."""
    referred = Finalizable()
    called = weakref.ref(referred, lambda _: signal.raise_signal(number))
    del referred
    assert called() is None


def in_the_open(number):
    signal.raise_signal(number)


def in_jax(number):
    signal.raise_signal(number)
    jnp.zeros(2).block_until_ready()


SENDERS = [in_a_callback, in_a_finalizer, where_an_object_is_gone, in_the_open, in_jax]


def send_and_wait(send, number):
    send(number)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # in the code that the signal is to end
        time.sleep(0.01)


@pytest.mark.parametrize("send", SENDERS)
def test_the_error_of_a_handler_reaches_the_main_thread(send, handled):
    signal.signal(signal.SIGTERM, signals.raising(Ended))
    with pytest.raises(Ended):
        send_and_wait(send, signal.SIGTERM)


@pytest.mark.parametrize("send", SENDERS)
def test_ctrl_c_is_never_swallowed(send, handled):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signals.repeat_lost_signals()
    with pytest.raises(KeyboardInterrupt):
        send_and_wait(send, signal.SIGINT)


@pytest.mark.parametrize("send", SENDERS)
def test_sigterm_ends_a_task_wherever_it_comes(send, handled):
    with pytest.raises(SystemExit) as ended, ending_on_sigterm():
        send_and_wait(send, signal.SIGTERM)
    assert ended.value.code == TERMINATED


@pytest.mark.parametrize("send", SENDERS)
def test_further_signals_do_not_disturb_the_end(send, handled):
    signal.signal(signal.SIGTERM, signals.raising(Ended, once=True))
    ended = False
    with pytest.raises(Ended):
        try:
            send_and_wait(send, signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            ended = True
    assert ended


def test_other_errors_go_to_the_hook_that_was_there(handled, monkeypatch):
    class Broken:
        def __del__(self):
            raise ValueError("of a finalizer")

    heard = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: heard.append(str(unraisable.exc_value)))
    signals.repeat_lost_signals()
    signals.repeat_lost_signals()
    Broken()
    assert heard == ["of a finalizer"]
