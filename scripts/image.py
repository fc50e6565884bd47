"""What is inside of the images: a bill of materials, the licences, and what is known against it.

Usage: image.py sbom | audit

An image holds what deploy/compose/select_lock.py takes out of requirements.lock for its service.
Both commands look at just that: `sbom` installs it as the image has it and writes
dist/image/<service>.cdx.json (CycloneDX) and dist/image/licences.md; `audit` asks the package
index what is known against each version. A dependency that could not be asked about is a failure:
silence is no answer. The base image's own packages are in neither.
"""
# ruff: noqa: S603, T201 - it runs commands of our own and tells people what it found

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import bootstrap

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / ".venv" / "image"
OUT = ROOT / "dist" / "image"
TOOLS = ROOT / "scripts" / "image-requirements.txt"
IMAGES = {
    "payment-intake": ("paypost-shared", "payment-intake"),
    "cis-poster": ("paypost-shared", "cis-poster"),
    "autopay-scheduler": ("paypost-shared", "autopay-scheduler"),
    "notifier": ("paypost-shared", "notifier"),
    "reference-cis": ("paypost-shared", "aiohttp"),
}
"""The images of the Dockerfile and whose dependencies each holds."""
SECONDS_MAX = 600

Package = tuple[str, str, str]
"""Name, version, licence."""


class UnknownLicenceError(Exception):
    """A package says nothing of its licence.

    Attributes:
        packages: which ones.
    """

    def __init__(self, *, packages: list[str]) -> None:
        super().__init__(f"no licence is stated by: {', '.join(packages)}")
        self.packages = packages


def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout; its output goes where ours goes."""
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, check=False, text=True, timeout=SECONDS_MAX
    )
    if check and done.returncode:
        raise SystemExit(f"image: failed: {' '.join(str(part) for part in command)}")
    return done


def tools() -> Path:
    """The folder of the tools' programs, installed by hash where they are not."""
    place = PLACE / "tools"
    stamp = place / "stamp"
    if not stamp.exists() or stamp.read_text() != TOOLS.read_text():
        print("installing cyclonedx-bom and pip-audit")
        environment(place, TOOLS)
        stamp.write_text(TOOLS.read_text())
    return place / "bin"


def environment(place: Path, lock: Path) -> None:
    """Make a virtual environment that holds a lock and nothing else."""
    uv = bootstrap.find_uv()
    run(uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, place)
    python = place / "bin" / "python"
    run(uv, "pip", "sync", "--quiet", "--python", python, "--require-hashes", lock)


def lock_of(image: str) -> Path:
    """Write the part of the lock that an image holds; where it lies."""
    path = ROOT / "deploy" / "compose" / "select_lock.py"
    spec = importlib.util.spec_from_file_location("select_lock", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"image: cannot be read: {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    PLACE.mkdir(parents=True, exist_ok=True)
    target = PLACE / f"{image}.lock"
    text = (ROOT / "requirements.lock").read_text()
    target.write_text(module.select(text, roots=list(IMAGES[image])))
    return target


def sbom() -> int:
    """Write each image's bill of materials, and all licences in one list."""
    program = tools() / "cyclonedx-py"
    OUT.mkdir(parents=True, exist_ok=True)
    packages: dict[Package, list[str]] = {}
    for image in IMAGES:
        place = PLACE / image
        environment(place, lock_of(image))
        target = OUT / f"{image}.cdx.json"
        run(
            *(program, "environment", "--output-reproducible", "--spec-version", "1.6"),
            *("--output-file", target, place / "bin" / "python"),
        )
        components = json.loads(target.read_text())["components"]
        print(f"{target.relative_to(ROOT)}: {len(components)} components")
        for each in components:
            package = (each["name"], each["version"], licence_of(each))
            packages.setdefault(package, []).append(image)
    target = OUT / "licences.md"
    target.write_text(licence_list(packages))
    print(f"{target.relative_to(ROOT)}: {len(packages)} packages")
    silent = [name for name, _, licence in packages if not licence]
    if silent:
        raise UnknownLicenceError(packages=silent)
    return 0


def licence_of(component: dict[str, Any]) -> str:
    """What a component says of its licence: the expression, else the ids, else the names."""
    found = []
    for entry in component.get("licenses", ()):
        stated = entry.get("license", {})
        text = entry.get("expression") or stated.get("id") or stated.get("name") or ""
        # Some put the licence's whole text where its name belongs.
        first = text.strip().splitlines()[0] if text.strip() else ""
        if first and first not in found:
            found.append(first)
    return "; ".join(found)


def licence_list(packages: dict[Package, list[str]]) -> str:
    """All packages as a Markdown table."""
    rows = [
        f"| {name} | {version} | {licence or '**not stated**'} | {', '.join(images)} |"
        for (name, version, licence), images in sorted(packages.items())
    ]
    head = ["# Licences of what the images hold", "", "| package | version | licence | images |"]
    return "\n".join([*head, "|---|---|---|---|", *rows]) + "\n"


def audit() -> int:
    """Ask what is known against each image's packages; 1 where something is, or no one answered."""
    program = tools() / "pip-audit"
    failed = []
    for image in IMAGES:
        lock = lock_of(image)
        count = lock.read_text().count("==")
        print(f"{image}: asking about {count} packages", flush=True)
        done = run(
            *(program, "--strict", "--disable-pip", "--require-hashes", "--progress-spinner=off"),
            *("--requirement", lock),
            check=False,
        )
        if done.returncode:
            failed.append(image)
    if failed:
        print(
            f"image: not clean, or not all of it could be asked about: {', '.join(failed)}. "
            "`not found` means that the index gave no answer, not that nothing is known."
        )
        return 1
    print("image: nothing is known against any version")
    return 0


if __name__ == "__main__":
    commands = {"sbom": sbom, "audit": audit}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        raise SystemExit(__doc__)
    try:
        sys.exit(commands[sys.argv[1]]())
    except UnknownLicenceError as error:
        raise SystemExit(f"image: {error}") from None
