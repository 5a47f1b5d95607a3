from tests.support.fuzz import run_apart


def test_two_thousand_mutated_files_of_all_formats_give_pictures_or_typed_refusals_and_nothing_else() -> None:
    outcome = run_apart(2000, seed=7, timeout=120)
    assert outcome.files == 2000
    assert outcome.wrong == []
    assert outcome.taken > 200
    assert len(outcome.refused) >= 6
    assert outcome.slowest < 500, outcome.slowest_file
    assert outcome.growth < 20
    assert outcome.peak_growth < 100
