"""Download each pair of arguments (address, folder), as KServe's own image does."""

import sys

from kserve_storage import Storage  # pyright: ignore[reportMissingImports]

for source, folder in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    Storage.download(source, folder)
