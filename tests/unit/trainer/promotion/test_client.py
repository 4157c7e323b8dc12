"""The client does over HTTP what the promoter does, and its errors say what to do."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from infra.errors import CannotContinue, RetryLater
from infra.process.ports import free_port
from infra.settings import load
from schemas.promotion_view import PromotionView
from tests.support.memory_promoter import MemoryPromoter, empty_view, example_view
from trainer.promotion.client import PromoterClient
from trainer.promotion.operator_commands import CommandRefused, OperatorApi, OperatorCommand
from trainer.promotion.web import serve

TOKEN = "an operator's token"


@pytest.fixture
def promoter() -> MemoryPromoter:
    return MemoryPromoter(example_view())


@pytest.fixture
def url(promoter: MemoryPromoter) -> Iterator[str]:
    with serve(load(promotion={"operator_token": TOKEN}), promoter, threading.Event()) as server:
        yield server.url


def test_every_operator_command_works_over_http(url: str, promoter: MemoryPromoter) -> None:
    client: OperatorApi = PromoterClient(url + "/", TOKEN)
    assert client.view() == PromotionView.model_validate(promoter.state)
    assert client.execute(OperatorCommand("promote", "5", "ada", "better")).after == "champion"
    assert client.execute(OperatorCommand("rollback", "5", "ada", "worse after all")).rolls_back and promoter.state["champion"] == "4"
    assert client.execute(OperatorCommand("reject", "6", "ada", "")).after == "rejected"
    assert client.execute(OperatorCommand("rollback", "4", "ada", "", to="1")).replaces == "4"


def test_a_refusal_of_the_promoter_keeps_its_text(url: str) -> None:
    client = PromoterClient(url, TOKEN)
    with pytest.raises(CommandRefused, match="version 2 is rejected already"):
        client.execute(OperatorCommand("promote", "2", "ada", ""))
    with pytest.raises(CommandRefused, match="3 was confirmed, but the version is 4"):
        client.execute(OperatorCommand("rollback", "3", "ada", ""))
    with pytest.raises(CommandRefused, match="versions are numbers"):
        client.execute(OperatorCommand("promote", "../rollback", "ada", ""))


def test_with_a_wrong_token_reading_works_and_writing_names_the_setting(url: str) -> None:
    client = PromoterClient(url, "wrong")
    assert client.view().champion == "4"
    with pytest.raises(CannotContinue, match=r"promotion\.operator_token"):
        client.execute(OperatorCommand("promote", "5", "ada", ""))


def test_without_a_champion_there_is_nothing_to_roll_back(url: str, promoter: MemoryPromoter) -> None:
    promoter.state = empty_view()
    with pytest.raises(CommandRefused, match="nothing to roll back"):
        PromoterClient(url, TOKEN).execute(OperatorCommand("rollback", "", "ada", ""))


def test_a_registry_that_is_away_is_retry_later(url: str, promoter: MemoryPromoter) -> None:
    promoter.trouble = RetryLater("the registry is away")
    with pytest.raises(RetryLater, match="the registry is away"):
        PromoterClient(url, TOKEN).view()


def test_a_promoter_that_is_away_or_hangs_is_an_error_within_the_time_limit() -> None:
    with pytest.raises(RetryLater, match="does not answer"):
        PromoterClient(f"http://127.0.0.1:{free_port('127.0.0.1')}", TOKEN).view()
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(RetryLater, match="does not answer"):
        PromoterClient(f"http://127.0.0.1:{silent.getsockname()[1]}", TOKEN, wait_s=0.2).view()


@pytest.mark.parametrize("begun", [b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n"], ids=["head", "body"])
def test_a_reply_that_never_ends_is_given_up(begun: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def trickle() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.sendall(begun)
                for _ in range(100):
                    connection.sendall(b"x")
                    time.sleep(0.1)

        thread = threading.Thread(target=trickle)
        thread.start()
        with pytest.raises(RetryLater, match=r"does not answer: not within 0\.3 s"):
            PromoterClient(f"http://127.0.0.1:{server.getsockname()[1]}", TOKEN, wait_s=0.3).view()
        thread.join(5)
        assert not thread.is_alive()


def test_a_token_that_no_header_can_hold_is_not_shown(url: str) -> None:
    for token in ("secret\nsecret", "тайна", "\udcff"):
        with pytest.raises(CannotContinue, match="the operator token has ") as raised:
            PromoterClient(url, token).view()
        assert token not in str(raised.value) and raised.value.__suppress_context__


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://[::1"])
def test_an_invalid_address_is_an_error_that_names_it(url: str) -> None:
    with pytest.raises(CannotContinue, match="is not the address of a promoter"):
        PromoterClient(url, TOKEN).view()


def test_another_kind_of_server_is_recognized() -> None:
    answer = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 2\r\n\r\n[]"
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer_once() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)

        thread = threading.Thread(target=answer_once)
        thread.start()
        with pytest.raises(CannotContinue, match=r"is no promoter: check promotion\.url"):
            PromoterClient(f"http://127.0.0.1:{other.getsockname()[1]}", TOKEN).view()
        thread.join(5)
