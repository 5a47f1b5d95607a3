"""The answer to a store request (DICOM PS3.18 10.5.3): status and DICOM JSON, of what became of each instance."""

from collections.abc import Sequence
from typing import Any

from gateway.intake import Receipt, too_large
from gateway.storage_scp import STATUS

_CLASS, _INSTANCE, _REASON = "00081150", "00081155", "00081197"
_FAILED, _REFERENCED, _OTHER = "00081198", "00081199", "0008119A"


def status_of(receipts: Sequence[Receipt], max_bytes: int) -> int:
    """200 when all are stored, 202 when some are, else what fits the failure of all."""
    failures = [receipt for receipt in receipts if _reason(receipt)]
    if not failures:
        return 200
    if len(failures) < len(receipts):
        return 202
    if all(receipt == too_large(max_bytes) for receipt in failures):
        return 413
    return 503 if all(receipt.outcome == "out-of-resources" for receipt in failures) else 409


def document(receipts: Sequence[Receipt]) -> dict[str, Any]:
    """The response's data set: referenced instances, failed ones, and failures of objects without UIDs."""
    items: dict[str, list[dict[str, Any]]] = {_REFERENCED: [], _FAILED: [], _OTHER: []}
    for receipt in receipts:
        instance, reason = receipt.instance, _reason(receipt)
        item = {_REASON: {"vr": "US", "Value": [reason]}} if reason else {}
        if instance and instance.sop_class and instance.sop_instance:
            item[_CLASS] = {"vr": "UI", "Value": [instance.sop_class]}
            item[_INSTANCE] = {"vr": "UI", "Value": [instance.sop_instance]}
            items[_FAILED if reason else _REFERENCED].append(item)
        else:
            items[_OTHER].append(item)
    return {tag: {"vr": "SQ", "Value": values} for tag, values in items.items() if values}


def _reason(receipt: Receipt) -> int:
    """The failure reason, which is the status that C-STORE would answer; 0 for success."""
    return STATUS[receipt.outcome]
