"""`make attack`: what an attacker tries and what bad luck does, by area, with a table of what held.

python -m tests.support.attacks                     # against stacks and parts that the tests start
python -m tests.support.attacks --home .lungline    # against a running stack of your own; nothing there is harmed
python -m tests.support.attacks -k kafka            # some of it: other arguments are pytest's

Each line names a test, which is part of `make test` as well; here is the index. The exit code is not 0 when one did not
hold.
"""

import os
import sys
from collections import defaultdict
from pathlib import Path

import pytest

# Area, attack, file of its tests, and the test; without a name all tests of the file.
ATTACKS: tuple[tuple[str, str, str, str], ...] = (
    ("whole stack", "every port, as another user and as a page in the owner's browser", "test_attack_stack.py", ""),
    ("MLflow", "the API and the assistant without the login",
     "test_mlflow_server.py", "test_nobody_gets_in_without_the_login"),
    ("MLflow", "assistant, gateway, jobs with the login",
     "test_mlflow_server.py", "test_what_a_registry_does_not_need_is_absent"),
    ("MLflow", "an experiment in another bucket or folder",
     "test_mlflow_server.py", "test_an_experiment_lies_in_the_servers_own_bucket"),
    ("MLflow", "a model version that is an X-ray",
     "test_mlflow_server.py", "test_a_model_version_comes_from_the_servers_own_bucket"),
    ("MLflow", "its S3 keys on other buckets", "test_mlflow_server.py", "test_mlflows_own_keys_open_its_bucket_only"),
    ("object store", "each user beyond its rights", "test_store_policies.py", "test_users_may_do_no_more"),
    ("object store", "its inner ports without a namespace",
     "test_store.py", "test_without_a_network_of_its_own_the_store_asks_for_a_certificate"),
    ("Kafka", "the broker past its login, as another user",
     "test_kafka_gate.py", "test_the_broker_is_out_of_reach_of_other_users"),
    ("Kafka", "requests before a login", "test_kafka_gate.py", "test_no_request_goes_through_before_a_login"),
    ("Kafka", "an offset beyond the end", "test_proofs.py", "test_an_offset_beyond_the_end_is_mended"),
    ("events", "a forged diagnosis", "test_worklist_hints.py", "test_a_forged_diagnosis_changes_nothing"),
    ("events", "a result of the year 9998", "test_worklist_hints.py", "test_an_event_of_another_age_is_refused"),
    ("events", "a version that nobody promoted",
     "test_worklist_hints.py", "test_versions_that_were_never_promoted_are_refused_until_they_are"),
    ("events", "thousands of records in one",
     "test_bounds.py", "test_an_event_of_thousands_of_records_is_refused_at_once"),
    ("web pages", "other origins, hosts and media types", "test_attack_connections.py", "TestPredictor"),
    ("web pages", "the worklist's cookie at another port",
     "test_worklist_sessions.py", "test_no_other_server_of_the_machine_gets_the_cookie"),
    ("web pages", "a live page after its session",
     "test_worklist_sessions.py", "test_live_updates_end_with_the_session"),
    ("web pages", "a large form of a stranger", "test_worklist_sessions.py", "test_a_form_of_a_stranger_is_not_read"),
    ("web pages", "whom an X-ray is of, without the right",
     "test_worklist_patients.py", "test_page_shows_the_patient_only_to_those_who_may_see"),
    ("ports", "every port while its service is killed, as another user",
     "test_ports.py", "test_no_port_of_a_stack_can_be_taken_while_its_services_are_killed"),
    ("ports", "a stranger on MLflow's port", "test_mlflow_server.py", "test_a_stranger_on_its_port_is_not_ready"),
    ("ports", "a stranger on the predictor's port, who answers 200, 400 and 503",
     "test_event_proofs.py", "test_who_takes_the_port_gets_nothing_and_is_not_believed"),
    ("ports", "a program between trigger and predictor",
     "test_event_proofs.py", "test_changed_answers_and_events_cost_nothing"),
    ("events", "changed, unproved, or with the bare token",
     "test_event_proofs.py", "test_changed_and_unproved_events_are_refused"),
    ("events", "repeated, whatever the clock says",
     "test_event_proofs.py", "test_a_repeated_request_is_refused_whatever_the_clock_says"),
    ("events", "proved to another receiver, process or time",
     "test_event_proofs.py", "test_proofs_of_others_and_of_other_times_are_refused"),
    ("events", "84 MB of a stranger", "test_event_proofs.py", "test_the_body_of_a_stranger_is_not_read"),
    ("cluster", "who may come in from outside",
     "test_manifests_network.py", "test_only_the_gateway_comes_in_from_outside"),
    ("cluster", "a person under another's name", "test_worklist_oidc.py", "test_a_person_is_issuer_and_subject"),
    ("history", "a forged entry before a promotion",
     "test_promotion_trust.py", "test_a_change_verifies_the_history_and_never_anchors_a_forgery"),
    ("history", "a lost anchor",
     "test_promotion_trust.py", "test_a_lost_anchor_needs_a_word_that_stands_in_the_history"),
    ("history", "lowered limits of the gate",
     "test_promotion_trust.py", "test_lowered_limits_of_the_gate_stand_in_the_history"),
    ("package", "any change after signing", "test_signature.py", "test_any_change_is_refused_in_one_sentence"),
    ("package", "another package than was promoted",
     "test_package_guard.py", "test_another_package_than_was_promoted_is_refused"),
    ("package", "a damaged file", "test_package_guard.py", "test_a_damaged_package_is_fetched_again"),
    ("bounds", "foreign objects and impossible dates",
     "test_bounds.py", "test_foreign_objects_stop_neither_monitoring_nor_listing_nor_a_rebuild"),
    ("connections", "slow and many, at the worklist",
     "test_attack_connections.py", "test_slow_connections_do_not_shut_the_worklist"),
    ("connections", "clients that read nothing", "test_attack_readers.py", ""),
    ("connections", "clients of the gates that read nothing", "test_relay.py", ""),
    ("connections", "a busy predictor", "test_trigger.py", "test_a_busy_predictor_costs_no_attempt"),
    ("DICOM", "garbage, lying lengths, endless commands", "test_gateway_hostile.py", ""),
    ("DICOM", "hostile multiparts", "test_gateway_stow.py", "test_bodies_that_break_the_bounds_are_400"),
    ("DICOM", "no token, wrong token, other requests",
     "test_gateway_stow.py", "test_request_that_is_none_is_refused_whole"),
    ("DICOM", "hostile searches of a viewer", "test_dicomweb.py", "test_hostile_queries_find_nothing"),
    ("DICOM", "a viewer without the token, or with a reader's cookie",
     "test_dicomweb.py", "test_only_the_token_opens_it"),
    ("memory", "the worst images in a pod's limit", "test_attack_memory.py", ""),
    ("hangs", "a stopped broker, bridge and trigger",
     "test_proofs.py", "test_a_hung_bridge_and_a_hung_trigger_are_not_ready"),
    ("hangs", "every service of a stack stopped, under uploads", "test_hangs.py", ""),
    ("copies", "`up` in a copy of a running home", "test_home_copy.py", "test_a_start_in_a_copy_spares_the_original"),
    ("losses", "an empty database beside a full store",
     "test_worklist_restoring.py", "test_an_empty_database_beside_a_full_bucket_is_restored"),
    ("state files", "empty, half, noise, wrong types, a folder",
     "test_home_state.py", "test_damage_is_mended_or_named_with_its_cure"),
    ("audit log", "changed, removed and added entries", "test_worklist_audit.py", "test_changes_of_the_log_are_told"),
    ("audit log", "a look without an entry", "test_worklist_audit.py", "test_nothing_is_shown_that_cannot_be_logged"),
)  # fmt: skip
TESTS = Path(__file__).parents[1]


class Verdicts:
    """Collects what became of each test."""

    def __init__(self) -> None:
        self.outcomes: dict[str, list[str]] = defaultdict(list)
        self.reasons: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test was set up, run or torn down."""
        if report.when == "call" or report.outcome != "passed":
            is_broken = report.failed and report.when != "call"  # a fixture: nothing was tried
            self.outcomes[report.nodeid].append("broken" if is_broken else report.outcome)
        if report.skipped and isinstance(report.longrepr, tuple):
            self.reasons[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")

    def of(self, name: str) -> str:
        """The verdict on the tests of one line."""
        mine = [each for each in self.outcomes if each == name or each.startswith((f"{name}::", f"{name}["))]
        outcomes = {outcome for each in mine for outcome in self.outcomes[each]}
        if "failed" in outcomes:
            return "DID NOT HOLD"
        if "broken" in outcomes:
            return "COULD NOT BE TRIED: see the error above"
        if "passed" in outcomes:
            skipped = sorted({self.reasons[each] for each in mine if each in self.reasons})
            return "held" + (f" (not tried: {'; '.join(skipped)})" if skipped else "")
        reasons = sorted({self.reasons.get(each, "") for each in mine})
        return f"not tried: {'; '.join(reasons)}" if mine else "left out"


def _node(folder: Path | str, file: str, name: str) -> str:
    return f"{folder}/{file}::{name}" if name else f"{folder}/{file}"


def main(arguments: list[str]) -> int:
    """Run the attacks and print the table; returns the exit code."""
    chosen = ATTACKS
    if "--home" in arguments:
        at = arguments.index("--home")
        if at + 1 == len(arguments):
            print("--home needs the home folder of a running stack.", file=sys.stderr)
            return 2
        os.environ["ATTACK_HOME"] = str(Path(arguments[at + 1]).absolute())
        arguments = [*arguments[:at], *arguments[at + 2 :]]
        chosen = ATTACKS[:1]
    verdicts = Verdicts()
    tests = dict.fromkeys(_node(TESTS, file, name) for _, _, file, name in chosen)
    code = pytest.main(["-q", "--no-header", f"--rootdir={TESTS.parent}", *tests, *arguments], plugins=[verdicts])
    print()
    for area, tried, file, name in chosen:
        print(f"{area:<13} {tried:<66} {verdicts.of(_node('tests', file, name))}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
