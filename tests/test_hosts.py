"""Hosts that do not come are named in words. What two hosts do together is in test_long_runs.py."""

import socket

import pytest

from openko.errors import InputError
from openko.training import hosts


@pytest.mark.parametrize(("arguments", "said"), [
    (("localhost:1", None, None), "belong together"), ((None, 2, 0), "belong together"), (("localhost", 2, 0), "HOST:PORT"),
    (("localhost:1", 2, 2), "must be 0 to 1"),
])  # fmt: skip
def test_half_an_address_is_refused(arguments, said):
    with pytest.raises(InputError, match=said):
        hosts.join(*arguments)


def test_a_coordinator_that_does_not_answer_is_told_while_waiting_and_named_at_the_end(monkeypatch, capsys):
    monkeypatch.setattr(hosts, "PATIENCE", 1.2)
    monkeypatch.setattr(hosts, "TELL_EVERY", 0.2)
    with socket.socket() as taken:
        taken.bind(("localhost", 0))  # bound, but nobody listens
        address = f"localhost:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=rf"the coordinator {address} does not answer .*is process 0 running there"):
            hosts.join(address, 2, 1)
    assert f"waiting for all 2 hosts at {address}" in capsys.readouterr().err


def test_a_single_machine_is_no_slice(monkeypatch):
    def initialize(*arguments, **options):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(hosts.jax.distributed, "initialize", initialize)
    with pytest.raises(InputError, match=r"coordinator_address should be defined.*name them with --coordinator"):
        hosts.join()


def test_one_host_agrees_with_itself():
    assert hosts.is_first() and hosts.tell(7) == 7 and hosts.agree(3, 0) == (3, 0)
