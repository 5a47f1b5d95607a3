"""The gate's judgement on a prepared data set: floors, and the champion on the same pictures."""

import tempfile
from pathlib import Path

from lungline.datasets.prepared import Prepared
from lungline.evaluation.scoring import Scores, score_split
from lungline.gate import Verdict, judge
from lungline.images import Limits
from lungline.package import Package
from lungline.registry import Registry
from lungline.settings import Settings


def judge_against_champion(scores: Scores, prepared: Prepared, limits: Limits, settings: Settings) -> Verdict:
    """The verdict on a model's test scores; the champion, where there is one, judges the same files again."""
    registry = Registry(settings)
    champion = registry.champion()
    if champion is None:
        return judge(scores.evaluation, None, settings.gate, synthetic=prepared.synthetic)
    with tempfile.TemporaryDirectory(prefix="lungline-") as temporary:
        package: Package = registry.fetch(champion, Path(temporary) / champion)
        theirs = score_split(package, prepared, "test", limits)
    return judge(
        scores.evaluation,
        theirs.evaluation,
        settings.gate,
        synthetic=prepared.synthetic,
        paired=(scores.scored, theirs.scored),
    )
