"""What a version judges uploads for, where its judgement is not the answer.

Apart from the records, which bring numpy: the laptop's supervisor and `lungline up` read this at every start.
"""

from typing import Literal, get_args

Purpose = Literal["shadow", "rejudged"]
"""Beside live uploads, unseen; or of old uploads, shown as the answer of another version."""
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
