"""Which files of tests begin first: the long ones, so that no worker sits idle while another ends one."""

import pytest

# Each takes half a minute to three minutes alone. Waiting (browsers, clocks, starts) and computing (training) take
# turns, so that workers that run side by side seldom want the same core.
LONGEST = (
    *("test_pipeline", "test_worklist_live", "test_model"),
    *("test_demo", "test_attack_connections", "test_notebooks", "test_task_tutorial"),
    *("test_out_of_scope", "test_laptop", "test_chest"),
    *("test_components", "test_worklist_browser", "test_attack_memory"),
    *("test_lungs", "test_worklist_outbox", "test_population", "test_registry"),
    *("test_promotion_trust", "test_worklist_postgres", "test_watching", "test_site_version", "test_site_validation"),
    *("test_gateway", "test_proofs", "test_recovery", "test_bridge", "test_hangs", "test_submit", "test_package"),
)


def long_files_first(items: list[pytest.Item]) -> None:
    """Sort tests by file in place; within a file, and among all other files, their order stays."""
    place = {name: at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
