import asyncio
from pathlib import Path

import pytest

from paypost.simulators.append_log import AppendLog, AppendLogClosedError


class TestAppendLog:
    async def test_keeps_lines_in_the_order_of_the_calls(self, tmp_path: Path) -> None:
        async with AppendLog(path=tmp_path / "log") as log:
            await asyncio.gather(*(log.append(b"%d\n" % n) for n in range(200)))
        assert (tmp_path / "log").read_bytes() == b"".join(b"%d\n" % n for n in range(200))

    async def test_cuts_off_a_line_that_a_crash_left_unfinished(self, tmp_path: Path) -> None:
        (tmp_path / "log").write_bytes(b"whole\nhal")
        async with AppendLog(path=tmp_path / "log") as log:
            await log.append(b"next\n")
        assert (tmp_path / "log").read_bytes() == b"whole\nnext\n"

    async def test_waits_for_earlier_lines_when_given_none(self, tmp_path: Path) -> None:
        async with AppendLog(path=tmp_path / "log") as log:
            log.write(b"first\n")
            await log.append(b"")
            assert log.size_bytes == 6

    async def test_tries_again_when_the_disk_refuses(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("paypost.simulators.append_log.RETRY_SECONDS", 0.01)
        async with AppendLog(path=tmp_path / "log") as log:
            refusals = [OSError(28, "full"), OSError(28, "full")]
            write_through = log._write_through

            def refuse_twice(chunk: bytes) -> None:
                if refusals:
                    raise refusals.pop()
                write_through(chunk)

            monkeypatch.setattr(log, "_write_through", refuse_twice)
            await log.append(b"kept\n")
        assert (tmp_path / "log").read_bytes() == b"kept\n"

    async def test_refuses_lines_once_closed(self, tmp_path: Path) -> None:
        log = AppendLog(path=tmp_path / "log")
        log.open()
        await log.close()
        with pytest.raises(AppendLogClosedError):
            await log.append(b"late\n")
