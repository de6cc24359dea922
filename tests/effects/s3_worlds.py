"""Worlds of the contract suite whose target is a store of objects."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import boto3
from botocore.config import Config

from effects.harness import World
from rescind.compensation.effects import S3Objects

_NUMBERS = itertools.count(1)
KEY = "reports/summer.csv"


@functools.cache
def s3_client(url: str) -> Any:
    """One for each server: making one takes a while."""
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="s3cr3t-k3y",  # of a server that checks none
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=5),
    )


def a_bucket(client: Any, *, versioned: bool) -> str:
    name = f"bucket-{next(_NUMBERS)}"
    client.create_bucket(Bucket=name)
    if versioned:
        client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return name


def put(client: Any, bucket: str, body: bytes, key: str = KEY, **parameters: Any) -> None:
    client.put_object(Bucket=bucket, Key=key, Body=body, **parameters)


def content_of(client: Any, bucket: str) -> list[Any]:
    """Every current object with all that an undo puts back."""
    found: list[Any] = []
    for each in client.list_objects_v2(Bucket=bucket).get("Contents", []):
        got = client.get_object(Bucket=bucket, Key=each["Key"])
        tags = client.get_object_tagging(Bucket=bucket, Key=each["Key"])["TagSet"]
        headers = [got.get(name) for name in ("ContentType", "CacheControl", "ContentDisposition", "StorageClass")]
        found.append((each["Key"], got["Body"].read(), headers, sorted(got["Metadata"].items()), tags))
    return found


def _object(tool: Callable[[Any, str], Any], *, versioned: bool, key: str = KEY) -> Callable[[Any, str], World]:
    def build(place: Any, url: str) -> World:
        client = s3_client(url)
        bucket = a_bucket(client, versioned=versioned)
        put(
            client,
            bucket,
            b"before \xff",
            ContentType="text/csv",
            CacheControl="no-store",
            Metadata={"owner": "ann"},
            Tagging="class=secret&team=a%2Bb%3Dc",
            StorageClass="STANDARD_IA",
        )
        put(client, bucket, b"theirs", "others")
        effect = S3Objects(client, bucket, key=lambda: key, keep=None if versioned else place[0] / "kept")
        left: list[Any] = []

        def meddle() -> None:
            left.append(read())
            put(client, bucket, b"somebody else's", key)

        def read() -> Any:
            try:
                return client.get_object(Bucket=bucket, Key=key)["Body"].read()
            except client.exceptions.NoSuchKey:
                return None

        def mend() -> None:
            if left[-1] is None:
                client.delete_object(Bucket=bucket, Key=key)
            else:
                put(client, bucket, left[-1], key, ContentType="text/plain")

        def cut_off() -> None:
            effect._store.client = s3_client("http://127.0.0.1:1")  # where nobody listens

        return World(
            effect=effect,
            tool=lambda: tool(client, bucket),
            meddle=meddle,
            mend=mend,
            content=lambda: content_of(client, bucket),
            cut_off=cut_off,
            abandons=False,
        )

    build.needs = ("s3_url",)  # type: ignore[attr-defined]
    return build


def _overwrite(client: Any, bucket: str) -> None:
    put(client, bucket, b"after", ContentType="text/plain")


def _create(client: Any, bucket: str) -> None:
    put(client, bucket, b"new", "new", ContentType="text/plain")


def _delete(client: Any, bucket: str) -> None:
    client.delete_object(Bucket=bucket, Key=KEY)


S3 = {
    f"an object {what}, {'with' if versioned else 'without'} versions": _object(tool, versioned=versioned, key=key)
    for what, tool, key in (
        ("overwritten", _overwrite, KEY),
        ("created", _create, "new"),
        ("deleted", _delete, KEY),
    )
    for versioned in (True, False)
}
