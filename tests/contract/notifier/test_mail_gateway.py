"""What every `MailGateway` does: held to it are the fake, and SMTP with and without PIPELINING."""

import asyncio
import smtplib
import ssl
from collections.abc import AsyncIterator

import pytest
from tests.contract.notifier.smtp_world import NoMetrics, SmtpWorld
from tests.unit.notifier.fakes import NOON, InMemoryMailGateway, a_contact, a_notification
from tests.unit.notifier.test_composer import SENDER

from notifier.adapters.composer import TemplateComposer
from notifier.adapters.smtp import SmtpMailGateway
from notifier.adapters.smtp_session import SmtpServer
from notifier.domain import Answer, Outcome
from notifier.ports import MailMessage

SENT = Answer(outcome=Outcome.SENT)


class FakeWorld(InMemoryMailGateway):
    @property
    def gateway(self) -> InMemoryMailGateway:
        return self

    async def close(self) -> None: ...


@pytest.fixture(params=["fake", "smtp", "smtp with pipelining"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[FakeWorld | SmtpWorld]:
    world: FakeWorld | SmtpWorld = (
        FakeWorld()
        if request.param == "fake"
        else SmtpWorld(pipelining=request.param == "smtp with pipelining")
    )
    yield world
    await world.close()


def a_message(recipient: str = "ada@example.org", content: bytes = b"Subject: x\r\n\r\nx\r\n"):
    return MailMessage(message_id="<1@example.org>", recipient=recipient, content=content)


def messages(count: int) -> list[MailMessage]:
    return [a_message(f"{number}@example.org") for number in range(count)]


def outcomes(answers) -> list[Outcome]:
    return [answer.outcome for answer in answers]


class TestAnyMailGateway:
    async def test_sends_in_order(self, world):
        assert await world.gateway.send(messages(30)) == [SENT] * 30
        assert [recipient for recipient, _ in world.inbox] == [
            f"{number}@example.org" for number in range(30)
        ]

    async def test_sends_again_over_what_it_has_kept(self, world):
        for _ in range(3):
            assert await world.gateway.send(messages(2)) == [SENT, SENT]
        assert len(world.inbox) == 6

    @pytest.mark.parametrize(
        ("outcome", "reason"), [(Outcome.REFUSED, "smtp_550"), (Outcome.DEFERRED, "smtp_451")]
    )
    async def test_goes_on_behind_what_is_not_taken(self, world, outcome, reason):
        answer = Answer(outcome=outcome, reason=reason)
        world.answer_with(recipient="1@example.org", answer=answer)
        world.answer_with(recipient="4@example.org", answer=answer)
        answers = await world.gateway.send(messages(5))
        assert answers == [SENT, answer, SENT, SENT, answer]
        assert await world.gateway.send(messages(1)) == [SENT]

    async def test_says_that_it_does_not_know_where_the_answer_was_lost(self, world):
        world.drop_answer_of("1@example.org")
        answers = await world.gateway.send(messages(3))
        assert outcomes(answers) == [Outcome.SENT, Outcome.LOST, Outcome.UNAVAILABLE]
        assert [recipient for recipient, _ in world.inbox] == ["0@example.org", "1@example.org"]

    async def test_says_that_nothing_was_sent_while_the_server_is_away(self, world):
        world.go_down()
        assert outcomes(await world.gateway.send(messages(2))) == [Outcome.UNAVAILABLE] * 2
        world.come_back()
        assert await world.gateway.send(messages(2)) == [SENT, SENT]

    async def test_refuses_an_address_that_no_relay_is_sure_to_take(self, world):
        odd = a_message("josé@example.org")
        answers = await world.gateway.send([a_message(), odd, a_message()])
        assert outcomes(answers) == [Outcome.SENT, Outcome.REFUSED, Outcome.SENT]


@pytest.mark.parametrize("pipelining", [True, False])
class TestSmtp:
    async def test_delivers_content_octet_by_octet(self, pipelining):
        world = SmtpWorld(pipelining=pipelining)
        content = b"Subject: x\r\n\r\n.\r\n..\r\n.hidden\r\nend.\r\n.\r\n"
        leading_dot = b".x: y\r\n\r\nno line end"
        await world.gateway.send([a_message(content=content), a_message(content=leading_dot)])
        assert [got for _, got in world.inbox] == [content, leading_dot + b"\r\n"]
        await world.close()

    async def test_delivers_what_smtplib_delivers(self, pipelining):
        world = SmtpWorld(pipelining=pipelining)
        message = TemplateComposer(sender=SENDER).compose(
            notification=a_notification(),
            contact=a_contact(name="Ñandú\u2028.", locale="es"),
            now=NOON,
        )
        await world.gateway.send([message])
        with smtplib.SMTP("127.0.0.1", world.port) as client:
            client.sendmail(SENDER.address, [message.recipient], message.content)
        ours, theirs = world.inbox
        assert ours == theirs
        await world.close()

    @pytest.mark.parametrize(
        ("line", "answer"),
        [
            ("554 5.7.1 Refused", Answer(outcome=Outcome.REFUSED, reason="smtp_554_5.7.1")),
            ("451 4.3.0 Later", Answer(outcome=Outcome.DEFERRED, reason="smtp_451_4.3.0")),
        ],
    )
    async def test_hears_what_is_said_at_the_end_of_the_data(self, pipelining, line, answer):
        world = SmtpWorld(pipelining=pipelining)
        world.handler.at_end["1@example.org"] = line
        assert await world.gateway.send(messages(3)) == [SENT, answer, SENT]
        await world.close()

    async def test_hears_what_is_said_of_the_sender(self, pipelining):
        world = SmtpWorld(pipelining=pipelining)
        world.handler.at_sender = "452 4.3.1 Full"
        answer = Answer(outcome=Outcome.DEFERRED, reason="smtp_452_4.3.1")
        assert await world.gateway.send(messages(2)) == [answer, answer]
        world.handler.at_sender = None
        assert await world.gateway.send(messages(2)) == [SENT, SENT]
        await world.close()

    async def test_loses_nothing_with_a_connection_that_went_stale(self, pipelining):
        world = SmtpWorld(pipelining=pipelining)
        await world.gateway.send(messages(1))
        world.drop_connections()
        assert await world.gateway.send(messages(3)) == [SENT] * 3
        assert world.metrics.connections == ["connected", "connected"]
        await world.close()

    async def test_opens_another_connection_where_the_server_ends_one(self, pipelining):
        world = SmtpWorld(pipelining=pipelining)
        world.handler.at_end["1@example.org"] = "421 4.7.0 Enough for one connection"
        answers = await world.gateway.send(messages(3))
        assert outcomes(answers) == [Outcome.SENT, Outcome.DEFERRED, Outcome.SENT]
        await world.close()

    async def test_waits_for_a_server_that_hangs_no_longer_than_it_may(self, pipelining):
        world = SmtpWorld(pipelining=pipelining, reply_timeout_seconds=1.5)
        world.handler.hung.add("1@example.org")
        assert await world.gateway.send(messages(3)) == [
            SENT,
            Answer(outcome=Outcome.LOST, reason="reply_timeout"),
            Answer(outcome=Outcome.UNAVAILABLE, reason="reply_timeout"),
        ]
        await world.close()

    async def test_begins_nothing_when_its_time_is_over(self, pipelining):
        world = SmtpWorld(pipelining=pipelining, call_seconds_max=0.0)
        answer = Answer(outcome=Outcome.UNAVAILABLE, reason="out_of_time")
        assert await world.gateway.send(messages(2)) == [answer, answer]
        assert world.inbox == []
        await world.close()

    @pytest.mark.parametrize("security", ["starttls", "tls"])
    async def test_speaks_under_tls_and_logs_in(self, pipelining, security):
        world = SmtpWorld(
            pipelining=pipelining, security=security, username="notifier", password="open sesame"
        )
        assert await world.gateway.send(messages(3)) == [SENT] * 3
        await world.close()

    async def test_takes_a_wrong_password_for_the_operators_trouble(self, pipelining):
        world = SmtpWorld(pipelining=pipelining, username="notifier", password="wrong")
        [answer] = await world.gateway.send(messages(1))
        assert answer == Answer(outcome=Outcome.UNAVAILABLE, reason="smtp_535_5.7.8")
        await world.close()


class TestSmtpUnderTls:
    async def test_sends_nothing_in_the_clear_where_starttls_is_not_offered(self):
        world = SmtpWorld(pipelining=True)
        server = world.gateway._server
        object.__setattr__(server, "security", "starttls")
        assert await world.gateway.send(messages(1)) == [
            Answer(outcome=Outcome.UNAVAILABLE, reason="starttls_not_offered")
        ]
        assert world.inbox == []
        await world.close()

    async def test_sends_nothing_to_a_server_that_it_cannot_verify(self):
        world = SmtpWorld(pipelining=True, security="tls")
        object.__setattr__(world.gateway._server, "tls", ssl.create_default_context())
        [answer] = await world.gateway.send(messages(1))
        assert answer == Answer(outcome=Outcome.UNAVAILABLE, reason="tls_failed")
        await world.close()


class TestSmtpAgainstOddServers:
    @pytest.mark.parametrize(
        ("said", "answers"),
        [
            # A server that goes ahead without a recipient is given nothing (RFC 2920, 3.1).
            (
                [b"250 ok", b"550 5.1.1 no", b"354 go", b"554 none", b"250 ok"],
                [Answer(outcome=Outcome.REFUSED, reason="smtp_550_5.1.1")],
            ),
            (
                [b"421 4.3.2 Shutting down"],
                [Answer(outcome=Outcome.UNAVAILABLE, reason="smtp_421_4.3.2")],
            ),
            (
                [b"530 5.7.0 Authenticate first", b"503 no", b"503 no"],
                [Answer(outcome=Outcome.UNAVAILABLE, reason="smtp_530_5.7.0")],
            ),
            (
                [b"250 ok", b"250 ok", b"250 what?"],
                [Answer(outcome=Outcome.UNAVAILABLE, reason="no_smtp")],
            ),
            ([b"HTTP/1.1 400"], [Answer(outcome=Outcome.UNAVAILABLE, reason="no_smtp")]),
        ],
    )
    async def test_makes_of_what_is_said(self, said, answers):
        heard: list[bytes] = []
        hello = [b"250-odd\r\n250 PIPELINING", *said]

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 odd\r\n")
            for line in hello:
                heard.append(await reader.readline())
                writer.write(line + b"\r\n")
            heard.append(await reader.read())
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        gateway = SmtpMailGateway(
            server=SmtpServer(
                host="127.0.0.1",
                port=server.sockets[0].getsockname()[1],
                security="plain",
                sender="payments@springfield.example",
            ),
            metrics=NoMetrics(),
            call_seconds_max=20.0,
        )
        assert await gateway.send([a_message()]) == answers
        assert not any(b"Subject" in line for line in heard)
        await gateway.close()
        server.close()
