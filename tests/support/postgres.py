"""A real PostgreSQL for tests, on a free port; None where Debian's package is not installed."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.object_store import free_ports


@contextmanager
def running_postgres(folder: Path) -> Iterator[str | None]:
    """The address of an empty database, until the context ends."""
    programs = _programs()
    if programs is None:
        yield None
        return
    # PostgreSQL refuses to run as root.
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    data = Path("/tmp") / f"lungline-postgres-{os.getpid()}" if user else folder / "postgres"
    data.mkdir()
    if user:
        shutil.chown(data, "postgres", "postgres")
    port = free_ports(1)[0]
    subprocess.run(
        [*user, programs / "initdb", "-D", data, "-A", "trust", "-U", "lungline"], check=True, capture_output=True
    )
    options = f"-p {port} -k {data} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = [*user, programs / "pg_ctl", "-D", data, "-w", "-l", data / "log"]
    subprocess.run([*control, "-o", options, "start"], check=True, capture_output=True, timeout=60)
    try:
        yield f"postgresql://lungline@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=False, capture_output=True, timeout=60)
        shutil.rmtree(data, ignore_errors=True)


def _programs() -> Path | None:
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return programs[-1].parent if programs else None
