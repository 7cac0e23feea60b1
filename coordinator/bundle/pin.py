"""``python -m coordinator.bundle.pin``: write the pins anew, for the versions of requirements.lock.

For whoever raises a dependency, from a clone.
"""

from __future__ import annotations

import configparser
import re
import tempfile
from pathlib import Path

from coordinator.bundle.pins import (
    ARCHITECTURES,
    COMPILER,
    INSTALLER,
    Pin,
    download_options,
    run_pip,
)
from protos.records import sha256_hex

ROOT = Path(__file__).resolve().parents[2]
INSTALLER_VERSION = "26.0.1"

_HEAD = """\
# The wheels for a device without the compiler, by SHA-256. TVM's is not installed there.
# Written by `make lock`.
"""


def required() -> list[str]:
    """The agent's own distributions, as tunefarm asks for them."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    asked = settings["options"]["install_requires"] + settings["options.extras_require"]["agent"]
    return asked.split()


def lines(architecture: str, lock: Path) -> list[str]:
    """One for each wheel, with what each needs itself."""
    compiler = re.search(rf"^{COMPILER}==\S+$", lock.read_text(), re.MULTILINE)
    assert compiler is not None, f"{lock} has no {COMPILER}"
    alone = [compiler[0], f"{INSTALLER}=={INSTALLER_VERSION}"]
    found = []
    with tempfile.TemporaryDirectory() as directory:
        options = ["download", "--quiet", "--dest", directory, *download_options(architecture)]
        run_pip([*options, "--constraint", str(lock), *required()])
        run_pip([*options, "--no-deps", *alone])
        for path in Path(directory).glob("*.whl"):
            name, version = path.name.split("-")[:2]
            pin = Pin(name.lower().replace("_", "-"), version, sha256_hex(path.read_bytes()))
            found.append(pin.line)
    return sorted(found)


def main() -> None:
    """Write every architecture's file."""
    for architecture in ARCHITECTURES:
        text = _HEAD + "".join(
            f"{line}\n" for line in lines(architecture, ROOT / "requirements.lock")
        )
        (Path(__file__).parent / "files" / f"{architecture}.txt").write_text(text)


if __name__ == "__main__":
    main()
