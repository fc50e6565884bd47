import json
import smtplib
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from tests.integration.simulators.counterparts import Counterpart, free_port, request_text, running

from paypost.simulators.mail.store import read_messages


@dataclass
class Sink:
    process: Counterpart
    smtp_port: int
    url: str
    store: Path

    def connect(self, *, timeout_seconds: float = 5) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", self.smtp_port, timeout=timeout_seconds)

    def send(self, *, to: str = "ann@example.org", text: str = "Posted.\n") -> None:
        with self.connect() as smtp:
            smtp.send_message(message(to=to, text=text))

    def switch(self, **switches: object) -> None:
        request_text(f"{self.url}/_switches", method="PUT", body=switches)

    def get(self, path: str) -> Any:
        return json.loads(request_text(self.url + path))

    @property
    def count(self) -> int:
        count: int = self.get("/count")["count"]
        return count


def message(*, to: str, text: str) -> EmailMessage:
    made = EmailMessage()
    made["From"] = "billing@city.example"
    made["To"] = to
    made["Subject"] = "Pago registrado: 84,50 €"
    made["Message-ID"] = "<posting-1@city.example>"
    made.set_content(text)
    made.add_alternative(f"<p>{text}</p>", subtype="html")
    return made


@pytest.fixture(scope="module")
def running_sink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sink]:
    smtp_port, http_port = free_port(), free_port()
    store = tmp_path_factory.mktemp("mail")
    url = f"http://127.0.0.1:{http_port}"
    with running(
        module="paypost.simulators.mail",
        arguments=[
            *("--smtp-port", str(smtp_port), "--http-port", str(http_port)),
            *("--store", str(store)),
        ],
        ready_url=f"{url}/readyz",
    ) as process:
        yield Sink(process, smtp_port, url, store)


@pytest.fixture
def sink(running_sink: Sink) -> Iterator[Sink]:
    yield running_sink
    request_text(f"{running_sink.url}/_switches/reset", method="POST")


class TestMailSink:
    def test_keeps_a_message_as_it_was_sent(self, sink: Sink) -> None:
        text = "Gracias.\n.\n..two dots\n.one dot\nends with a dot.\nlast line\n"
        sink.send(to="bo@example.org", text=text)
        kept = list(read_messages(sink.store))[-1]
        assert kept.recipients == ("bo@example.org",)
        assert kept.sender == "billing@city.example"
        assert kept.message_id == "<posting-1@city.example>"
        assert kept.subject == "Pago registrado: 84,50 €"
        assert kept.body(subtype="plain") == text
        shown = sink.get(f"/messages/{kept.id}")
        assert shown["text"] == text
        assert shown["html"].startswith("<p>Gracias.")
        listed = sink.get("/messages?to=bo@example.org")["messages"]
        assert [one["id"] for one in listed] == [kept.id]
        assert "Pago registrado" in request_text(sink.url)
        assert "ends with a dot." in request_text(f"{sink.url}/inbox/{kept.id}")

    def test_offers_pipelining_and_takes_empty_and_odd_messages(self, sink: Sink) -> None:
        before = sink.count
        with sink.connect() as smtp:
            smtp.ehlo()
            assert smtp.has_extn("pipelining")
            assert smtp.has_extn("8bitmime")
            for body in (b"", b".\r\n", b"x\r\n", b"\xff\xfe\r\n" * 3):
                smtp.sendmail("a@example.org", ["b@example.org"], body)
        assert sink.count == before + 4
        assert [one.raw for one in read_messages(sink.store)][-4:] == [
            b"\r\n",  # smtplib's own doing
            b".\r\n",
            b"x\r\n",
            b"\xff\xfe\r\n" * 3,
        ]

    def test_has_every_acknowledged_message_after_a_kill(self, sink: Sink) -> None:
        before = sink.count
        with sink.connect() as smtp:
            for number in range(50):
                smtp.send_message(message(to=f"c{number}@example.org", text="Posted.\n"))
            sink.process.kill()
        sink.process.start()
        assert sink.count == before + 50
        assert len(list(read_messages(sink.store))) == before + 50
        sink.send()
        assert sink.count == before + 51

    @pytest.mark.parametrize(
        ("switch", "code"), [("temporary_failure", 451), ("permanent_failure", 554)]
    )
    def test_refuses_a_message_when_told(self, sink: Sink, switch: str, code: int) -> None:
        before = sink.count
        sink.switch(**{switch: {"count": 1, "addresses": ["d@example.org"]}})
        sink.send(to="e@example.org")
        with pytest.raises(smtplib.SMTPDataError) as refused:
            sink.send(to="d@example.org")
        assert refused.value.smtp_code == code
        sink.send(to="d@example.org")
        assert sink.count == before + 2

    def test_refuses_a_recipient_when_told(self, sink: Sink) -> None:
        sink.switch(refuse_recipient={"addresses": ["f@example.org"]})
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            sink.send(to="f@example.org")

    def test_keeps_a_message_whose_answer_it_drops(self, sink: Sink) -> None:
        before = sink.count
        sink.switch(drop_answer={"count": 1})
        with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionResetError)):
            sink.send()
        assert sink.count == before + 1

    def test_hangs_without_keeping_when_told(self, sink: Sink) -> None:
        before = sink.count
        sink.switch(hang={"count": 1})
        smtp = sink.connect(timeout_seconds=0.3)
        with pytest.raises((TimeoutError, smtplib.SMTPServerDisconnected)):
            smtp.send_message(message(to="g@example.org", text="Posted.\n"))
        smtp.close()
        assert sink.count == before

    def test_takes_no_connection_when_told(self, sink: Sink) -> None:
        sink.switch(refuse_connection={"count": 1})
        with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionResetError)):
            sink.connect()
        sink.send()
