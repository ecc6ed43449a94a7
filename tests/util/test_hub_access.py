"""Whether the hub is there is asked once, before each of its files would be asked for again and again."""

import socket

import pytest
from huggingface_hub import constants

from library.util import hub_access


@pytest.fixture
def door(monkeypatch):
    """An address where somebody listens; the hub's client thinks itself online."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_access, "getproxies", dict)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield server


def test_a_hub_that_answers_is_asked(door):
    hub_access.offline_where_unreachable()
    assert constants.HF_HUB_OFFLINE is False


def test_a_hub_that_nobody_answers_for_is_not_asked_for_files(door):
    door.close()
    hub_access.offline_where_unreachable()
    assert constants.HF_HUB_OFFLINE is True


def test_behind_a_proxy_nothing_is_decided(door, monkeypatch):
    door.close()
    monkeypatch.setattr(hub_access, "getproxies", lambda: {"https": "http://proxy:3128"})
    hub_access.offline_where_unreachable()
    assert constants.HF_HUB_OFFLINE is False
