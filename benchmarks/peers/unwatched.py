"""The predictor without metrics: the baseline of `python -m benchmarks.overhead`."""

from prometheus_client import Counter, Gauge, Histogram

from lungline import program
from serving import metrics
from serving.__main__ import main


def _nothing(*_: object, **__: object) -> bool:
    return True


if __name__ == "__main__":
    metrics.count_record = _nothing
    for kind in (Counter, Gauge, Histogram):
        for name in ("inc", "dec", "set", "observe"):
            if hasattr(kind, name):
                setattr(kind, name, _nothing)
    program.run("predictor", main)
