"""Tokens and the hub: the real client against a hub on this machine, each trouble under its own words."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from library.preflight import hub_client, tokens
from library.preflight.machine import Machine
from library.preflight.registry import run_level
from library.util.records import Problem

from . import hub
from .world import World, write_diffusers


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with hub.serve() as found:
        yield found


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # other rooms' tests switch the client off for the process
    monkeypatch.setattr(hub_client, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(hub_client, "TIMEOUT", 0.5)
    hub.Hub.asked.clear()


def ask(
    world: World,
    address: str,
    repo: str = "public/model",
    token: str = "",
    env: dict[str, str] | None = None,
    level: Any = "network",
    **flags: Any,
) -> list[Problem]:
    """All problems of a level for a hub model, with a token in HF_TOKEN."""
    environment = {"HF_ENDPOINT": address, **({"HF_TOKEN": token} if token else {}), **(env or {})}
    machine = {"env": environment, "home": world.root / "home"}
    return run_level(level, world.context(pretrained_model_name_or_path=repo, machine=machine, **flags))


def keys(problems: list[Problem]) -> list[tuple[str, str]]:
    return [(p.severity, p.check) for p in problems]


def test_a_public_repository_is_silent_with_and_without_a_token(world: World, address: str) -> None:
    assert ask(world, address) == []
    assert ask(world, address, token=hub.GOOD) == []


def test_a_bad_token_on_a_public_repository_is_tried_again_without_and_said_so(world: World, address: str) -> None:
    found = ask(world, address, token="hf_" + "x" * 34)
    assert keys(found) == [("warn", "hub_token_refused.public_refused")]
    assert found[0].where == "HF_TOKEN" and "public" in found[0].what
    assert hub.Hub.asked == ["/api/models/public/model token", "/api/models/public/model open"]


def test_an_expired_token_is_called_expired(world: World, address: str) -> None:
    assert keys(ask(world, address, token=hub.OLD)) == [("warn", "hub_token_refused.public_expired")]
    assert keys(ask(world, address, "private/model", token=hub.OLD)) == [("stop", "hub_token_refused.expired")]


def test_a_bad_token_on_a_private_repository_stops_and_names_the_git_credential_manager(world: World, address: str) -> None:
    found = ask(world, address, "private/model", token="hf_" + "x" * 34)
    assert keys(found) == [("stop", "hub_token_refused.refused")]
    assert "Git Credential Manager" in found[0].remedy and "hf auth login" in found[0].remedy


def test_a_gated_repository_asks_for_login_terms_or_permission(world: World, address: str) -> None:
    assert keys(ask(world, address, "gated/model")) == [("stop", "hub_gated.login")]
    assert keys(ask(world, address, "gated/model", hub.READ)) == [("stop", "hub_gated.terms")]
    found = ask(world, address, "gated/model", hub.FINE)
    assert keys(found) == [("stop", "hub_gated.permission")]
    assert f"{address}/gated/model" in found[0].remedy
    assert ask(world, address, "gated/model", hub.GOOD) == []


def test_a_repository_that_is_not_there_is_never_a_path_or_token_riddle(world: World, address: str) -> None:
    found = ask(world, address, "someone/v1-5-pruned")
    assert keys(found) == [("stop", "hub_not_found")]
    (world.root / "someone").mkdir()
    (world.root / "someone" / "v1-5-pruned.safetensors").write_bytes(b"x")
    found = ask(world, address, "someone/v1-5-pruned")
    assert keys(found) == [("stop", "hub_not_found.local")]
    assert "v1-5-pruned.safetensors" in found[0].remedy


def test_a_name_without_a_slash_is_a_file_that_is_missing_and_the_hub_is_not_asked(world: World, address: str) -> None:
    (world.root / "v1-5-pruned.safetensors").write_bytes(b"x")
    found = ask(world, address, "v1-5-pruned", level="files")
    assert ("stop", "model_not_found.near") in keys(found)
    assert any("v1-5-pruned.safetensors" in problem.remedy for problem in found)
    assert ask(world, address, "v1-5-pruned") == [] and hub.Hub.asked == []


def test_a_removed_repository_is_replaced_by_its_mirror(world: World, address: str) -> None:
    found = ask(world, address, "runwayml/stable-diffusion-v1-5", level="words")
    assert ("note", "model_moved") in keys(found)
    ask(world, address, "runwayml/stable-diffusion-v1-5")
    assert hub.Hub.asked == ["/api/models/stable-diffusion-v1-5/stable-diffusion-v1-5 open"]


@pytest.mark.parametrize("repo", ["busy/model", "broken/model"])
def test_a_busy_hub_is_asked_three_times(world: World, address: str, repo: str) -> None:
    found = ask(world, address, repo)
    assert keys(found) == [("stop", "hub_unreachable.busy")]
    assert len(hub.Hub.asked) == 3


def test_a_hub_that_does_not_answer_in_time_is_named(world: World, address: str) -> None:
    assert keys(ask(world, address, "slow/model")) == [("stop", "hub_unreachable.timeout")]


def test_no_connection_and_no_name_are_told_apart(world: World) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert keys(ask(world, f"http://127.0.0.1:{port}")) == [("stop", "hub_unreachable.connection")]
    for error, reason in (
        (OSError("[Errno 11001] getaddrinfo failed"), "dns"),
        (OSError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"), "ssl"),
        (OSError("Unable to connect to proxy"), "proxy"),
        (TimeoutError("timed out"), "timeout"),
    ):
        assert hub_client.why_unreachable(error) == reason


def test_offline_is_named_with_its_variable_and_a_cached_copy_is_used(world: World, address: str) -> None:
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(world.root / "hf")}
    found = ask(world, address, env=env)
    assert keys(found) == [("stop", "hub_unreachable.offline")] and "HF_HUB_OFFLINE" in found[0].what
    write_diffusers(world.root / "hf" / "hub" / "models--public--model" / "snapshots" / "abc")
    assert keys(ask(world, address, env=env)) == [("note", "hub_unreachable.cached")]
    assert hub.Hub.asked == []


def test_a_repository_without_a_diffusers_model_says_what_it_holds(world: World, address: str) -> None:
    found = ask(world, address, "single/file")
    assert keys(found) == [("stop", "hub_layout.file")]
    assert f"{address}/single/file/resolve/main/model.safetensors" in found[0].remedy
    assert keys(ask(world, address, "some/lora")) == [("stop", "hub_layout.lora")]
    assert keys(ask(world, address, "empty/repo")) == [("stop", "hub_layout")]


def test_uploading_needs_a_token_that_may_write(world: World, address: str) -> None:
    local = {"repo": str(world.model), "huggingface_repo_id": "me/lora"}
    assert keys(ask(world, address, **local)) == [("stop", "upload_token.none")]
    assert keys(ask(world, address, token=hub.READ, **local)) == [("stop", "upload_token.read")]
    assert keys(ask(world, address, token="hf_" + "x" * 34, **local)) == [("stop", "upload_token.refused")]
    assert ask(world, address, token=hub.GOOD, **local) == []


def test_a_local_model_asks_no_hub(world: World, address: str) -> None:
    assert ask(world, address, str(world.model), token="hf_abc...") == []
    assert hub.Hub.asked == []


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("hf_AbCd...", "cut"),
        ('"hf_' + "a" * 34 + '"', "quoted"),
        ("<your_token>", "placeholder"),
        ("hf_xxxxxxxxxxxxxxxx", "placeholder"),
        ("hf_abc def" + "a" * 30, "spaced"),
        ("hf_AbCdEf", "short"),
        ("abcdefgh12345678", "shape"),
        ("hf_" + "aB3" * 11 + "a", ""),
    ],
)
def test_a_token_is_judged_by_its_shape(value: str, fault: str) -> None:
    assert tokens.fault_of(value) == fault


def test_tokens_are_found_where_the_client_finds_them_and_in_its_order(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("hf_file\n", encoding="utf-8")
    env = {"HF_TOKEN_PATH": str(file), "HUGGING_FACE_HUB_TOKEN": "hf_old", "HF_TOKEN": " hf_new\n"}
    found = tokens.find_tokens(Machine.fake(env=env), {})
    assert [t.value for t in found] == ["hf_new", "hf_old", "hf_file"]
    assert [t.source for t in found] == ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", str(file)]
    assert "hf_new" not in repr(found)


def test_the_installed_client_resolves_tokens_in_the_same_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants, get_token

    file = tmp_path / "token"
    file.write_text("hf_file\n", encoding="utf-8")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(file))
    for env, expected in (
        ({"HF_TOKEN": "hf_new", "HUGGING_FACE_HUB_TOKEN": "hf_old"}, "hf_new"),
        ({"HUGGING_FACE_HUB_TOKEN": "hf_old"}, "hf_old"),
        ({}, "hf_file"),
    ):
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        assert get_token() == expected
        assert tokens.find_tokens(Machine.fake(env={**env, "HF_TOKEN_PATH": str(file)}), {})[0].value == expected


def test_a_refused_token_is_left_out_where_the_repository_is_public(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    from library.util.hub_access import patiently

    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    assert patiently(HfApi(endpoint=address).model_info, "public/model").id == "public/model"
    with pytest.raises(HfHubHTTPError):
        patiently(HfApi(endpoint=address).model_info, "private/model")
    assert hub.Hub.asked == [
        "/api/models/public/model token",
        "/api/models/public/model open",
        "/api/models/private/model token",
        "/api/models/private/model open",
    ]


def test_no_message_about_tokens_holds_any_part_of_one(world: World, address: str) -> None:
    secret = "hf_" + "Zq9" * 12
    for repo in ("public/model", "private/model", "gated/model"):
        for level in ("words", "network"):
            for problem in ask(world, address, repo, token=secret, env={"HUGGING_FACE_HUB_TOKEN": f'"{secret}"'}, level=level):
                assert "Zq9" not in f"{problem}"
