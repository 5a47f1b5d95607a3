"""The command line without its entry point: `python -m cli`."""

from cli.main import main

main()
