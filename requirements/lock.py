"""Resolve every dependency once and write the locks in layers: `make lock`.

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
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=[a-z0-9])", text.strip()):
        name = re.split(r"[=\[ ;]", entry, maxsplit=1)[0]
        found[name] = found.get(name, "") + entry + "\n"
    return found


def main() -> None:
    """Write the six layers."""
    entries = resolve("--generate-hashes", "--all-extras", "--group", "dev")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
        pins.write("".join(re.sub(r"\s+\\\n +--hash=\S+", "", entry) for entry in entries.values()))
        pins.flush()
        extras = {
            name: set(resolve("--constraints", pins.name, *(f"--extra={one}" for one in (name, *also))))
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


if __name__ == "__main__":
    main()
