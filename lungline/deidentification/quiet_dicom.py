"""Keep DICOM libraries from telling anybody about values that they find odd: they may be names."""

import logging
import re
import warnings

_LIBRARIES = ("pydicom", "highdicom", "dicomanonymizer")
# Warnings are laid at the door of whoever called the library.
_CALLERS = ("lungline.deidentification", "worklist.dicom_out")


def quiet_dicom() -> None:
    """Silence them in this process; may be called any number of times."""
    from pydicom import config

    config.settings.reading_validation_mode = config.IGNORE
    config.settings.writing_validation_mode = config.IGNORE
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    for name in (*_LIBRARIES, *_CALLERS):
        warnings.filterwarnings("ignore", module=rf"{re.escape(name)}\b")
