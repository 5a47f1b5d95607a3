"""Resolve every dependency once and write the locks in layers: `make lock`.

Versions that are locked stay as long as they fit; `make lock ARGS=--upgrade` takes the newest of everything.

One resolution for all layers, so that the predictor, the pipeline and the tests run the same versions. The layers
include each other with `-r`, so that each package stands in one file:

    core.txt      what two images or more share
    serving.txt   + the predictor's image
    pipeline.txt  + the pipeline's image
    worklist.txt  + the worklist's image
    laptop.txt    + the whole flow on one machine
    dev.txt       + tests and checks
"""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
HEADER = "# Written by requirements/lock.py (make lock); do not edit.\n"


def resolve(*arguments: str | Path) -> dict[str, str]:
    """The resolved requirements by package name; a name that forks by marker holds both of its entries."""
    uv = Path(sys.executable).with_name("uv")
    options = (
        "--quiet",
        "--universal",
        "--python-version",
        "3.11",
        "--no-emit-index-url",
        "--no-header",
        "--no-annotate",
    )
    command = [uv, "pip", "compile", *options, *arguments, HERE.parent / "pyproject.toml"]
    return _by_name(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def locked() -> str:
    """All entries of the present locks."""
    lines = "".join(path.read_text(encoding="utf-8") for path in sorted(HERE.glob("*.txt"))).splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(("#", "-r ")))


def main() -> None:
    """Write the six layers."""
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder, "pins.txt")
        # uv prefers the versions that the file of a former run names.
        pins.write_text("" if "--upgrade" in sys.argv else locked(), encoding="utf-8")
        resolve("--generate-hashes", "--all-extras", "--group", "dev", "--output-file", pins)
        entries = _by_name(pins.read_text(encoding="utf-8"))
        text = "".join(re.sub(r"\s+\\\n +--hash=\S+", "", entry) for entry in entries.values())
        pins.write_text(text, encoding="utf-8")
        extras = {
            name: set(resolve("--constraints", pins, *(f"--extra={extra}" for extra in (name, *also))))
            for name, *also in (("serving", "tracing"), ("pipeline",), ("worklist", "tracing"), ("laptop",))
        }
    images = ("serving", "pipeline", "worklist")
    seen = Counter(name for image in images for name in extras[image])
    core = {name for name, count in seen.items() if count > 1}
    layers: dict[str, tuple[tuple[str, ...], set[str]]] = {"core": ((), core)}
    layers |= {image: (("core",), extras[image] - core) for image in images}
    layers["laptop"] = (images, extras["laptop"] - set(seen))
    layers["dev"] = (("laptop",), set(entries) - set(seen) - extras["laptop"])
    for layer, (below, members) in layers.items():
        includes = "".join(f"-r {name}.txt\n" for name in below)
        body = "".join(entries[name] for name in sorted(members))
        (HERE / f"{layer}.txt").write_text(HEADER + includes + body, encoding="utf-8")


def _by_name(text: str) -> dict[str, str]:
    entries: dict[str, str] = {}
    for entry in re.split(r"\n(?=[a-z0-9])", text.strip()):
        name = re.split(r"[=\[ ;]", entry, maxsplit=1)[0]
        entries[name] = entries.get(name, "") + entry + "\n"
    return entries


if __name__ == "__main__":
    main()
