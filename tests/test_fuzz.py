from tests.support.fuzz import run_apart


def test_mutated_files_give_images_or_refusals() -> None:
    """Two thousand mutated files of all formats give images or typed refusals, and nothing else."""
    outcome = run_apart(2000, seed=7, timeout=120)
    assert outcome.files == 2000
    assert outcome.wrong == []
    assert outcome.accepted > 200
    assert len(outcome.refused) >= 6
    assert outcome.slowest < 500, outcome.slowest_file
    assert outcome.growth < 20
    assert outcome.peak_growth < 100
