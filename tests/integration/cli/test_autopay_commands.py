"""`paypost autopay` against servers that answer as the services do, or do not answer at all."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from paypost.__main__ import main

SWITCH = {"is_paused": True, "changed_at": "2026-03-20T11:00:00Z"}
CHARGE = {
    "id": "c-1",
    "account_id": "A-1",
    "bill_reference": "B-1",
    "due_date": "2026-03-20",
    "charge_on": "2026-03-20",
    "amount_cents": 8_450,
    "currency": "USD",
    "status": "announced",
    "reason": None,
    "attempt": 0,
    "next_at": "2026-03-20T11:00:00Z",
    "paid_cents": None,
    "announcements": [],
}
IMPORTED = {
    "import_id": "i-1",
    "dry_run": False,
    "lines": 2,
    "imported": 1,
    "changed": 0,
    "unchanged": 0,
    "refused": 1,
    "problems": [
        {"line": 3, "field": "email", "reason": "invalid", "message": "is no e-mail address"}
    ],
    "problems_by_reason": {"invalid": 1},
}


@dataclass(frozen=True)
class Call:
    """A request that a server got."""

    method: str
    path: str
    query: dict[str, str]
    key: str
    body: bytes


@dataclass
class Stub:
    """A server that answers what it was told to, and keeps what it was asked."""

    answers: dict[tuple[str, str], Any] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    silent: bool = False
    url: str = ""

    def answer(self, call: Call) -> tuple[int, Any]:
        self.calls.append(call)
        if self.silent:
            time.sleep(1.0)
        found = self.answers.get((call.method, call.path), (404, {"title": "Not here"}))
        return found(call) if callable(found) else found


def handler_of(stub: Stub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            if self.headers.get("transfer-encoding") == "chunked":
                self._answer(b"".join(self._chunks()))
            else:
                self._answer(self.rfile.read(int(self.headers.get("content-length", 0))))

        def _chunks(self) -> Iterator[bytes]:
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        def _answer(self, body: bytes) -> None:
            address = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(address.query).items()}
            key = self.headers.get("authorization", "")
            call = Call(self.command, address.path, query, key, body)
            status, answer = stub.answer(call)
            content = json.dumps(answer).encode()
            try:
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except BrokenPipeError:
                return

        def log_message(self, *_: object) -> None:
            return

    return Handler


@dataclass(frozen=True)
class Secrets:
    operator_key: str = "operator_key"


@dataclass(frozen=True)
class State:
    """As much of a stack's description as these commands need."""

    http_urls: dict[str, str]
    secrets: Secrets = field(default_factory=Secrets)
    superuser_dsn: str = "postgresql://nobody:x@127.0.0.1:9/nothing"


def serve(stub: Stub) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(stub))
    server.daemon_threads = True
    stub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def scheduler() -> Iterator[Stub]:
    stub = Stub()
    server = serve(stub)
    yield stub
    server.shutdown()
    server.server_close()


@pytest.fixture
def intake() -> Iterator[Stub]:
    stub = Stub()
    server = serve(stub)
    yield stub
    server.shutdown()
    server.server_close()


@pytest.fixture
def paypost(monkeypatch, capfd, scheduler, intake):
    """Runs a command; returns its exit code, what it printed, and what it said beside."""
    state = State(http_urls={"autopay-scheduler": scheduler.url, "payment-intake": intake.url})
    monkeypatch.setattr("paypost.commands.autopay.load_state", lambda _: state)
    monkeypatch.setattr("paypost.commands.autopay.SWITCH_SECONDS", 0.4)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["paypost", "autopay", *arguments])
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return call


class TestPause:
    ARGUMENTS = ("pause", "--all", "--note", "wrong bills", "--operator", "anna", "--json")

    def test_turns_both_halves_with_operator_and_note(self, paypost, scheduler, intake):
        scheduler.answers["POST", "/autopay/pause"] = (200, SWITCH)
        intake.answers["POST", "/charges/pause"] = (200, SWITCH)
        code, printed, _ = paypost(*self.ARGUMENTS)
        assert code == 0
        assert json.loads(printed)["holds"] is True
        for stub in (scheduler, intake):
            assert [json.loads(call.body) for call in stub.calls] == [
                {"operator": "anna", "note": "wrong bills"}
            ]
            assert stub.calls[0].key == "Bearer operator_key"

    def test_says_which_half_holds_when_one_is_silent(self, paypost, scheduler, intake):
        scheduler.answers["POST", "/autopay/pause"] = (200, SWITCH)
        intake.silent = True
        code, printed, said = paypost(*self.ARGUMENTS)
        assert code == 1
        assert [(half["service"], half["is_paused"]) for half in json.loads(printed)["halves"]] == [
            ("autopay-scheduler", True),
            ("payment-intake", None),
        ]
        assert "payment-intake did not answer" in said
        assert "may still be sending charges" in said
        assert "autopay-scheduler is paused" in said

    def test_says_which_half_holds_when_one_refuses(self, paypost, scheduler, intake):
        scheduler.answers["POST", "/autopay/pause"] = (503, {"title": "Not possible"})
        intake.answers["POST", "/charges/pause"] = (200, SWITCH)
        code, _, said = paypost(*self.ARGUMENTS)
        assert code == 1
        assert "autopay-scheduler did not answer" in said
        assert "503: Not possible" in said
        assert "payment-intake is paused" in said

    def test_is_not_believed_where_a_half_says_that_it_runs(self, paypost, scheduler, intake):
        scheduler.answers["POST", "/autopay/pause"] = (200, SWITCH)
        intake.answers["POST", "/charges/pause"] = (200, SWITCH | {"is_paused": False})
        code, printed, said = paypost(*self.ARGUMENTS)
        assert code == 1
        assert json.loads(printed)["holds"] is False
        assert "halves differ" in said


class TestResume:
    def test_turns_both_halves(self, paypost, scheduler, intake):
        running = SWITCH | {"is_paused": False}
        scheduler.answers["POST", "/autopay/resume"] = (200, running)
        intake.answers["POST", "/charges/resume"] = (200, running)
        code, printed, _ = paypost("resume", "--note", "put right")
        assert code == 0
        assert printed.count("running") == 2


class TestSwitch:
    def test_fails_where_the_halves_differ(self, paypost, scheduler, intake):
        scheduler.answers["GET", "/autopay/switch"] = (200, SWITCH)
        intake.answers["GET", "/charges/switch"] = (200, SWITCH | {"is_paused": False})
        code, _, said = paypost("switch")
        assert code == 1
        assert "halves differ" in said


def foreseen(account: str, would: str, cents: int, why: str | None = None) -> dict[str, Any]:
    return {
        "charge": CHARGE | {"account_id": account},
        "enrolment_id": "e-1",
        "would": would,
        "amount_cents": cents,
        "why": why,
    }


class TestPreview:
    @pytest.fixture
    def two_pages(self, scheduler):
        pages = {
            None: [foreseen("A-1", "charge", 8_450), foreseen("A-2", "skip", 0, "paid")],
            "A-2/x": [foreseen("A-3", "charge", 1_000)],
        }

        def page(call: Call) -> tuple[int, Any]:
            after = call.query.get("after")
            following = "A-2/x" if after is None else None
            return 200, {
                "day": call.query["date"],
                "is_paused": False,
                "charges": pages[after],
                "next_after": following,
            }

        scheduler.answers["GET", "/autopay/preview"] = page
        return scheduler

    def test_shows_a_page_and_says_that_there_are_more(self, paypost, two_pages):
        code, printed, _ = paypost("preview", "--date", "2026-03-20")
        assert code == 0
        assert "1 charge, 1 skip; 84.50 in all" in printed
        assert "give --all" in printed

    def test_pages_to_the_end_one_object_a_line(self, paypost, two_pages):
        code, printed, _ = paypost("preview", "--date", "2026-03-20", "--all", "--json")
        lines = [json.loads(line) for line in printed.splitlines()]
        assert code == 0
        assert [line["charge"]["account_id"] for line in lines[:-1]] == ["A-1", "A-2", "A-3"]
        assert lines[-1] == {
            "day": "2026-03-20",
            "is_paused": False,
            "would": {"charge": 2, "skip": 1},
            "charged_cents": 9_450,
            "is_complete": True,
        }


class TestReport:
    def test_lists_who_would_lapse_over_all_pages(self, paypost, scheduler):
        def page(call: Call) -> tuple[int, Any]:
            number = 1 if "after" not in call.query else 2
            row = {
                "account_id": f"A-{number}",
                "old_account": f"O-{number}",
                "name": "Ada",
                "email": None,
                "invitations": 1,
                "last_invited_on": "2026-03-01",
                "bill": None,
            }
            # A page may be empty and still have a next one.
            rows = [row] if number == 2 else []
            return 200, {"lapsing": rows, "next": "-/A-1" if number == 1 else None}

        scheduler.answers["GET", "/reenrolment/lapsing"] = page
        code, printed, _ = paypost("report", "--lapsing", "--until", "2026-04-01", "--json")
        assert code == 0
        assert [row["account_id"] for row in json.loads(printed)] == ["A-2"]
        assert scheduler.calls[0].query["until"] == "2026-04-01"


class TestShow:
    def test_says_what_comes_next(self, paypost, scheduler):
        scheduler.answers["GET", "/accounts/A%2F1/autopay"] = (
            200,
            {
                "account_id": "A/1",
                "balance_cents": 8_450,
                "under_way_cents": 0,
                "enrolments": [],
                "mandates": [],
                "charges": [CHARGE | {"reason": "notice_of_rise"}, CHARGE | {"status": "paid"}],
            },
        )
        code, printed, _ = paypost("show", "A/1", "--json")
        assert code == 0
        assert json.loads(printed)["next"] == [
            "84.50 USD due 2026-03-20 waits to be charged on 2026-03-20 (notice_of_rise)"
        ]

    def test_of_an_unknown_account_is_a_no(self, paypost, scheduler):
        code, _, said = paypost("show", "A-9")
        assert code == 1
        assert "404" in said


class TestImport:
    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "old.csv"
        path.write_bytes(b"old_account,account\nO-1,A-1\nO-2,A-2\n" * 40_000)
        return path

    def test_sends_the_file_as_it_is_and_names_what_was_not_taken(self, paypost, scheduler, file):
        scheduler.answers["POST", "/reenrolment/imports"] = (200, IMPORTED)
        code, printed, _ = paypost("import", str(file), "--operator", "anna")
        assert code == 1
        assert "is no e-mail address" in printed
        assert scheduler.calls[0].body == file.read_bytes()
        assert scheduler.calls[0].query == {
            "file_name": "old.csv",
            "operator": "anna",
            "dry_run": "false",
        }

    def test_is_a_yes_where_every_line_was_taken(self, paypost, scheduler, file):
        taken = IMPORTED | {"refused": 0, "problems": [], "problems_by_reason": {}}
        scheduler.answers["POST", "/reenrolment/drafts"] = (200, taken)
        code, _, _ = paypost("drafts", str(file), "--dry-run")
        assert code == 0
        assert scheduler.calls[0].query["dry_run"] == "true"

    def test_says_line_and_field_of_a_file_that_is_refused(self, paypost, scheduler, file):
        problem = {
            "title": "The file is not imported",
            "detail": "it is not UTF-8",
            "errors": [{"field": "file", "line": "7", "message": "it is not UTF-8"}],
        }
        scheduler.answers["POST", "/reenrolment/imports"] = (422, problem)
        code, _, said = paypost("import", str(file))
        assert code == 1
        assert "The file is not imported: line 7, file: it is not UTF-8" in said
        code, printed, _ = paypost("import", str(file), "--json")
        assert code == 1
        assert json.loads(printed)["errors"] == problem["errors"]

    def test_of_a_file_that_is_not_there_is_wrong_usage(self, paypost, scheduler, tmp_path):
        code, _, said = paypost("import", str(tmp_path / "none.csv"))
        assert code == 2
        assert "No such file" in said
        assert scheduler.calls == []


class TestStop:
    def test_names_operator_and_note(self, paypost, scheduler):
        answer = {"id": "e-1", "status": "stopped", "reason": "stopped_by_operator"}
        scheduler.answers["POST", "/enrolments/e-1/stop"] = (200, answer)
        code, printed, _ = paypost("stop", "e-1", "--note", "called", "--operator", "anna")
        assert code == 0
        assert "e-1 is stopped (stopped_by_operator)" in printed
        assert json.loads(scheduler.calls[0].body) == {"operator": "anna", "note": "called"}
