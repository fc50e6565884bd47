import hashlib

import pytest

from paypost.stack.kafka import (
    FETCH_ATTEMPTS_MAX,
    ArtifactUnavailableError,
    JarStore,
    LockedArtifact,
    LockFileInvalidError,
    locked_artifacts,
    parse_lock,
)

GOOD = b"the real jar"
SHA = hashlib.sha256(GOOD).hexdigest()
ARTIFACT = LockedArtifact(group="org.example", artifact="thing", version="1.0", sha256=SHA)


class StubRegistry:
    """Hands out the given contents one after the other, the last one for ever."""

    def __init__(self, *contents: bytes | Exception) -> None:
        self.contents = list(contents)
        self.fetches = 0

    def __call__(self, artifact, staging):
        self.fetches += 1
        content = self.contents.pop(0) if len(self.contents) > 1 else self.contents[0]
        staging.mkdir(parents=True, exist_ok=True)
        path = staging / artifact.file_name
        if isinstance(content, Exception):
            path.write_bytes(b"half a j")
            raise content
        path.write_bytes(content)
        return path


def store(directory, registry):
    return JarStore(directory=directory, artifacts=(ARTIFACT,), fetch=registry)


class TestParseLock:
    def test_reads_coordinates_and_hashes(self):
        text = f"# a comment\n\norg.example:thing:1.0 {SHA}\n"
        assert parse_lock(text=text) == (ARTIFACT,)

    @pytest.mark.parametrize(
        "line",
        [
            f"org.example:thing {SHA}",
            "org.example:thing:1.0",
            "org.example:thing:1.0 abc",
            f"org.example:thing:1.0 {SHA.upper()}",
            f"org.example:thing:1.0 {SHA} more",
        ],
    )
    def test_names_the_line_that_it_cannot_read(self, line):
        with pytest.raises(LockFileInvalidError) as caught:
            parse_lock(text=f"# first\n{line}\n")
        assert caught.value.line_number == 2

    def test_the_committed_lock_names_the_whole_broker(self):
        artifacts = locked_artifacts()
        assert len(artifacts) == 46
        assert "org.apache.kafka:kafka_2.13:4.3.1" in {one.coordinate for one in artifacts}


class TestJarStore:
    def test_fetches_what_is_missing_and_then_never_again(self, tmp_path):
        registry = StubRegistry(GOOD)
        (path,) = store(tmp_path, registry).ensure()
        assert path.read_bytes() == GOOD
        assert store(tmp_path, registry).ensure() == (path,)
        assert registry.fetches == 1

    def test_fetches_again_what_came_with_another_hash(self, tmp_path):
        registry = StubRegistry(b"not it", GOOD)
        (path,) = store(tmp_path, registry).ensure()
        assert path.read_bytes() == GOOD
        assert registry.fetches == 2

    def test_fetches_again_after_a_broken_download(self, tmp_path):
        registry = StubRegistry(ConnectionError("cut off"), GOOD)
        (path,) = store(tmp_path, registry).ensure()
        assert path.read_bytes() == GOOD

    def test_gives_up_with_what_the_last_attempt_met(self, tmp_path):
        registry = StubRegistry(b"never it")
        with pytest.raises(ArtifactUnavailableError) as caught:
            store(tmp_path, registry).ensure()
        assert caught.value.coordinate == "org.example:thing:1.0"
        assert caught.value.attempts == registry.fetches == FETCH_ATTEMPTS_MAX
        assert SHA in caught.value.reason
        assert list(tmp_path.iterdir()) == []

    def test_replaces_what_was_changed_on_disk(self, tmp_path):
        registry = StubRegistry(GOOD)
        (path,) = store(tmp_path, registry).ensure()
        path.write_bytes(b"tampered")
        store(tmp_path, registry).ensure()
        assert path.read_bytes() == GOOD
        assert registry.fetches == 2

    def test_keeps_what_was_only_touched(self, tmp_path):
        registry = StubRegistry(GOOD)
        (path,) = store(tmp_path, registry).ensure()
        path.touch()
        store(tmp_path, registry).ensure()
        assert registry.fetches == 1

    def test_checks_everything_anew_when_its_stamp_is_broken(self, tmp_path):
        registry = StubRegistry(GOOD)
        store(tmp_path, registry).ensure()
        (tmp_path / "checked.json").write_text("{")
        store(tmp_path, registry).ensure()
        assert registry.fetches == 1
