"""Every link between the documents leads somewhere, headings included."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted(
    path
    for folder in (ROOT / "docs", ROOT / "deploy", ROOT / "services", ROOT / "cli", ROOT / "bench")
    for path in folder.rglob("*.md")
    if not {".venv", "node_modules"} & set(path.parts)
) + sorted(ROOT.glob("*.md"))
LINK = re.compile(r"(?<!\\)\]\(([^()\s]+)\)")


def anchors(path: Path) -> set[str]:
    """The names of a document's headings, as they are made from their text."""
    without_code = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    return {
        re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", without_code, re.MULTILINE)
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text()):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), target
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), target


def test_runbooks_type_commands_that_exist() -> None:
    from typer.main import get_command

    from paypost.__main__ import build_app

    app = get_command(build_app())
    for path in sorted((ROOT / "docs" / "operating").rglob("*.md")):
        for words in re.findall(r"`paypost ((?:[a-z-]+ ?)+)", path.read_text()):
            command = app
            for word in words.split():
                found = getattr(command, "commands", {})
                if not found:
                    break
                assert word in found, (path.name, words)
                command = found[word]
