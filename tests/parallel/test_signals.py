"""Signals that end a command: the error reaches the main thread wherever it comes, and handlers are as they were found."""

import gc
import signal
import time

import jax.numpy as jnp
import pytest

from cvmae.parallel import signals
from cvmae.training.preemption import TERMINATED, ending_on_sigterm


class Ended(BaseException):
    """What the handler raises."""


@pytest.fixture
def handled():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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


def in_the_open(number):
    signal.raise_signal(number)


def in_jax(number):
    signal.raise_signal(number)
    jnp.zeros(2).block_until_ready()


SENDERS = [in_a_callback, in_a_finalizer, in_the_open, in_jax]


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
    signals.interrupt_surely()
    with pytest.raises(KeyboardInterrupt):
        send_and_wait(send, signal.SIGINT)


@pytest.mark.parametrize("send", SENDERS)
def test_sigterm_ends_a_task_wherever_it_comes(send, handled):
    with pytest.raises(SystemExit) as ended, ending_on_sigterm():
        send_and_wait(send, signal.SIGTERM)
    assert ended.value.code == TERMINATED


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signals.raising(Ended)])
def test_a_handler_of_others_stays(handler, handled):
    """A shell starts a command in the background deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, handler)
    signals.interrupt_surely()
    assert signal.getsignal(signal.SIGINT) is handler
