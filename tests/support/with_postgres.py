"""Run a command with a PostgreSQL for the worklist's tests.

python -m tests.support.with_postgres pytest tests/test_worklist_access.py
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.postgres import running_postgres


def main() -> int:
    """The command's exit code."""
    with tempfile.TemporaryDirectory() as folder, running_postgres(Path(folder)) as address:
        if address is None:
            print("PostgreSQL is not installed: apt-get install postgresql", file=sys.stderr)
            return 1
        environment = os.environ | {"LUNGLINE_TEST_POSTGRES": address}
        return subprocess.run(sys.argv[1:], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
