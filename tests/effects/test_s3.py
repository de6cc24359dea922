"""Objects of a store: what is atomic, what is refused, and what is gone."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import msgspec
import pytest
from botocore.awsrequest import AWSResponse

from builders import a_guard, events_of, steps_of
from effects.harness import a_call, opened, perform, the_way_back
from effects.s3_worlds import KEY, a_bucket, content_of, put, s3_client
from rescind.compensation.effects import S3Objects, s3_objects
from rescind.compensation.effects.s3_store import S3Failed
from rescind.errors import Conflict, DeclarationError, Transient, UsageError
from rescind.guard.effect import PastStep

Hook = Callable[..., AWSResponse | None]


@pytest.fixture
def client(s3_url: str) -> Iterator[Any]:
    """A client of the test's own, for it gets hooks."""
    shared = s3_client(s3_url)
    own = boto3.client(
        "s3",
        endpoint_url=s3_url,
        region_name="us-east-1",
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="s3cr3t-k3y",  # of a server that checks none
        config=shared.meta.config,
    )
    yield own
    own.close()


def before_sending(client: Any, operation: str, work: Hook) -> None:
    """Do something once, between the look and the write: the hook is boto3's own."""

    def once(**given: Any) -> AWSResponse | None:
        client.meta.events.unregister(f"before-send.s3.{operation}", once)
        return work(**given)

    client.meta.events.register(f"before-send.s3.{operation}", once)


def answer(status: int, code: str, **headers: str) -> Hook:
    """A store's answer, without asking the store."""

    def work(request: Any, **_: Any) -> AWSResponse:
        body = f"<Error><Code>{code}</Code><Message>key s3cr3t-k3y</Message></Error>".encode()

        class Raw:
            def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
                yield body

        return AWSResponse(request.url, status, headers, Raw())

    return work


def overwritten(client: Any, bucket: str, effect: S3Objects) -> PastStep:
    put(client, bucket, b"before")
    return perform(effect, lambda: put(client, bucket, b"after"))


@pytest.mark.parametrize("versioned", [True, False])
def test_a_write_between_the_look_and_the_restore_is_a_conflict_and_stays(
    client: Any, s3_url: str, tmp_path: Path, versioned: bool
) -> None:
    bucket = a_bucket(client, versioned=versioned)
    effect = S3Objects(client, bucket, key=lambda: KEY, keep=tmp_path)
    step = overwritten(client, bucket, effect)
    before_sending(client, "PutObject", lambda **_: put(s3_client(s3_url), bucket, b"theirs"))
    with pytest.raises(Conflict, match="changed just now"):
        effect.restore(step)
    assert content_of(client, bucket)[0][1] == b"theirs"


def test_neither_a_deletion_nor_a_creation_goes_over_somebody_elses_write(client: Any, s3_url: str) -> None:
    bucket = a_bucket(client, versioned=True)
    effect = S3Objects(client, bucket, key=lambda: KEY)
    created = perform(effect, lambda: put(client, bucket, b"new"))
    deleted = perform(effect, lambda: client.delete_object(Bucket=bucket, Key=KEY))
    before_sending(client, "PutObject", lambda **_: put(s3_client(s3_url), bucket, b"theirs"))
    with pytest.raises(Conflict, match="changed just now"):
        effect.restore(deleted)
    put(client, bucket, b"new")
    before_sending(client, "DeleteObject", lambda **_: put(s3_client(s3_url), bucket, b"theirs"))
    with pytest.raises(Conflict, match="changed just now"):
        effect.restore(created)
    assert content_of(client, bucket)[0][1] == b"theirs"


def test_a_store_without_conditional_writes_is_told_to_the_user_and_may_be_checked_first(
    client: Any, tmp_path: Path
) -> None:
    bucket = a_bucket(client, versioned=False)
    effect = S3Objects(client, bucket, key=lambda: KEY, keep=tmp_path)
    step = overwritten(client, bucket, effect)
    before_sending(client, "PutObject", answer(501, "NotImplemented"))
    with pytest.raises(Conflict, match='no conditional writes, so nothing was changed; see conditions="check"'):
        effect.restore(step)
    sent: list[set[str]] = []
    before_sending(client, "PutObject", lambda request, **_: sent.append(set(request.headers)))
    S3Objects(client, bucket, key=lambda: KEY, keep=tmp_path, conditions="check").restore(step)
    assert content_of(client, bucket)[0][1] == b"before"
    assert not {"If-Match", "If-None-Match"} & sent[0]
    with pytest.raises(DeclarationError, match="conditions is 'maybe'"):
        S3Objects(client, bucket, key=lambda: KEY, conditions="maybe")  # type: ignore[arg-type]  # the mistake itself


def test_answers_that_are_none_are_translated_and_repeat_no_secret(client: Any, tmp_path: Path) -> None:
    bucket = a_bucket(client, versioned=False)
    effect = S3Objects(client, bucket, key=lambda: KEY, keep=tmp_path)
    step = overwritten(client, bucket, effect)
    for status, code, kind in (
        (503, "SlowDown", Transient),
        (429, "", Transient),
        (500, "InternalError", ConnectionError),
        (403, "AccessDenied", S3Failed),
    ):
        before_sending(client, "PutObject", answer(status, code, **{"retry-after": "7"}))
        with pytest.raises(kind) as raised:
            effect.restore(step)
        assert "s3cr3t" not in str(raised.value)
        assert raised.value.__suppress_context__
        if isinstance(raised.value, Transient):
            assert raised.value.retry_after_s == 7
    before_sending(client, "GetObject", answer(500, "InternalError"))
    with pytest.raises(Transient):
        effect.restore(step)
    with pytest.raises(S3Failed, match="NoSuchBucket"):
        S3Objects(client, "no-such-bucket", key=lambda: KEY).open(a_call({}))
    effect.restore(step)
    assert content_of(client, bucket)[0][1] == b"before"


def test_what_nobody_keeps_or_is_too_large_is_refused_before_the_tool_runs(client: Any, tmp_path: Path) -> None:
    bucket = a_bucket(client, versioned=False)
    put(client, bucket, b"x" * 1001)
    with pytest.raises(UsageError, match=r"keeps no versions.*the tool was not run\. Say keep=FOLDER"):
        S3Objects(client, bucket, key=lambda: KEY).open(a_call({}))
    with pytest.raises(UsageError, match="more than bytes_max=1,000"):
        S3Objects(client, bucket, key=lambda: KEY, keep=tmp_path, bytes_max=1000).open(a_call({}))
    for key in ("", "x" * 1025, None):
        with pytest.raises(UsageError, match="key returned"):
            S3Objects(client, bucket, key=lambda key=key: key).open(a_call({}))
    assert opened(S3Objects(client, bucket, key=lambda: KEY, keep=tmp_path, bytes_max=1001)).before is not None


def test_a_version_or_a_copy_that_is_gone_or_damaged_is_a_conflict(client: Any, tmp_path: Path) -> None:
    bucket = a_bucket(client, versioned=True)
    effect = S3Objects(client, bucket, key=lambda: KEY)
    step = overwritten(client, bucket, effect)
    client.delete_object(Bucket=bucket, Key=KEY, VersionId=step.before["version_id"])
    with pytest.raises(Conflict, match="is gone, so there is nothing to put back"):
        effect.restore(step)

    bucket = a_bucket(client, versioned=False)
    effect = S3Objects(client, bucket, key=lambda: KEY, keep=tmp_path)
    step = overwritten(client, bucket, effect)
    (copy,) = [each for each in tmp_path.rglob("*") if each.is_file() and each.read_bytes() == b"before"]
    copy.write_bytes(b"before?")
    with pytest.raises(Conflict, match="is damaged"):
        effect.restore(step)
    assert content_of(client, bucket)[0][1] == b"after"
    created = perform(S3Objects(client, bucket, key=lambda: "new"), lambda: put(client, bucket, b"new", "new"))
    S3Objects(client, bucket, key=lambda: "new").restore(created)
    with pytest.raises(Conflict, match="was kept nowhere"):
        S3Objects(client, bucket, key=lambda: "new").restore(the_way_back(created))


def test_a_merge_can_only_put_there_what_is_kept(client: Any) -> None:
    bucket = a_bucket(client, versioned=True)
    effect = S3Objects(client, bucket, key=lambda: KEY)
    step = overwritten(client, bucket, effect)
    forged = effect.snapshot_of(step, {**step.before, "sha256": "0" * 64})
    with pytest.raises(Conflict, match="nothing to put back"):
        effect.restore(msgspec.structs.replace(step, before_snapshot=forged))
    assert content_of(client, bucket)[0][1] == b"after"


def test_a_guarded_write_is_undone_from_its_journal_which_knows_no_credentials(client: Any) -> None:
    bucket = a_bucket(client, versioned=True)
    put(client, bucket, b"before", "reports/summer.csv")
    guard = a_guard()

    @guard.write("report.store", effect=S3Objects(client, bucket, key=lambda name: f"reports/{name}.csv"))
    def store(name: str) -> None:
        put(client, bucket, b"after", f"reports/{name}.csv")

    with guard.run(agent="report-agent@1"):
        store("summer")
    (done,) = steps_of(guard.journal)
    assert str(done.step.target) == f"s3/object/{bucket}/reports/summer.csv"
    guard.compensators[done.step.action].undo(done, "undo-1")
    assert content_of(client, bucket)[0][1] == b"before"
    assert "s3cr3t" not in repr(events_of(guard.journal))
    assert "AKIDEXAMPLE" not in repr(events_of(guard.journal))


@pytest.mark.parametrize("versioned", [True, False])
def test_expiry_redirect_and_the_key_it_is_encrypted_with_come_back(
    client: Any, tmp_path: Path, *, versioned: bool
) -> None:
    bucket = a_bucket(client, versioned=versioned)
    put(
        client,
        bucket,
        b"before",
        Expires="Tue, 01 Jan 2030 00:00:00 GMT",
        WebsiteRedirectLocation="/other",
        ServerSideEncryption="aws:kms",
        SSEKMSKeyId="alias/secrets",
        BucketKeyEnabled=True,
    )
    names = ("ExpiresString", "WebsiteRedirectLocation", "ServerSideEncryption", "SSEKMSKeyId", "BucketKeyEnabled")

    def kept() -> list[Any]:
        return [client.get_object(Bucket=bucket, Key=KEY).get(name) for name in names]

    was = kept()
    assert all(was)
    effect = S3Objects(client, bucket, key=lambda: KEY, keep=tmp_path / "kept")
    step = perform(effect, lambda: put(client, bucket, b"after"))
    effect.restore(step)
    assert kept() == was


class Reluctant(io.FileIO):
    """Takes half of what it is given, as a disk that is filling up may."""

    def write(self, data: Any) -> int:
        return super().write(memoryview(data)[: len(data) // 2 + 1])


def test_a_file_that_takes_less_than_it_is_given_shortens_no_object(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = a_bucket(client, versioned=True)
    put(client, bucket, b"before" * 1000)
    effect = S3Objects(client, bucket, key=lambda: KEY)
    step = perform(effect, lambda: put(client, bucket, b"after"))
    monkeypatch.setattr(s3_objects, "a_file", lambda: Reluctant(tmp_path / "on its way", "w+b"))
    effect.restore(step)
    assert client.get_object(Bucket=bucket, Key=KEY)["Body"].read() == b"before" * 1000
