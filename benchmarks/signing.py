"""CPU cost of a call to the store, by signer: `python -m benchmarks.signing`.

Ours (lungline.storage.signing), boto3, and botocore's signer over urllib3 without the rest of boto3; objects of 8 KB on
a real store, in turns. CPU milliseconds of this process per call, medians over the rounds.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import urllib3
from boto3.session import Session
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from laptop.services.store import running_store
from lungline.settings import Settings, load_settings
from lungline.storage.s3 import Storage

CALLS, ROUNDS = 100, 5
DATA = bytes(range(256)) * 32
KEY = "signing/ward 7/x-ray.jpeg"

Call = Callable[[], object]


def measure() -> dict[str, dict[str, float]]:
    """CPU milliseconds by caller and call."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lungline-bench-")))
        settings = stack.enter_context(running_store(folder, load_settings({"home": folder})))
        callers = {
            "lungline.storage.signing": _ours(settings),
            "boto3": _boto3(settings),
            "botocore signer": _bare(settings),
        }
        spent: dict[str, dict[str, list[float]]] = {caller: {"put": [], "get": []} for caller in callers}
        for number in range(ROUNDS + 1):
            for caller, calls in callers.items():
                for name, call in calls.items():
                    cost = _cost(call)
                    if number:  # the first round opens connections
                        spent[caller][name].append(cost)
    return {
        caller: {name: round(statistics.median(costs), 3) for name, costs in calls.items()}
        for caller, calls in spent.items()
    }


def _cost(call: Call) -> float:
    began = time.process_time()
    for _ in range(CALLS):
        call()
    return (time.process_time() - began) / CALLS * 1000


def _ours(settings: Settings) -> dict[str, Call]:
    storage, bucket = Storage.from_settings(settings), settings.results_bucket
    return {"put": lambda: storage.put(bucket, KEY, DATA), "get": lambda: storage.get(bucket, KEY)}


def _boto3(settings: Settings) -> dict[str, Call]:
    client: Any = Session().client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key and settings.s3_access_key.get_secret_value(),
        aws_secret_access_key=settings.s3_secret_key and settings.s3_secret_key.get_secret_value(),
    )
    location = {"Bucket": settings.results_bucket, "Key": KEY}
    return {
        "put": lambda: client.put_object(**location, Body=DATA),
        "get": lambda: bytes(client.get_object(**location)["Body"].read()),
    }


def _bare(settings: Settings) -> dict[str, Call]:
    access, secret = settings.s3_access_key, settings.s3_secret_key
    keys = Credentials(access.get_secret_value() if access else "", secret.get_secret_value() if secret else "")
    signer = S3SigV4Auth(keys, "s3", settings.s3_region)
    pool = urllib3.PoolManager(maxsize=8, retries=False)
    url = f"{settings.s3_endpoint}/{settings.results_bucket}/{quote(KEY, safe='/-_.~')}"

    def send(method: str, data: bytes) -> bytes:
        request = AWSRequest(method, url, data=data, headers={"content-type": "image/jpeg"} if data else {})
        signer.add_auth(request)
        response = pool.request(method, url, body=data or None, headers=dict(request.headers.items()))
        if response.status >= 300:
            raise RuntimeError(f"The store answered {response.status}.")
        return response.data

    return {"put": lambda: send("PUT", DATA), "get": lambda: send("GET", b"")}


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
