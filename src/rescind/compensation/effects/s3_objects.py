"""Objects of an S3-compatible store as an effect."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import urlencode

from rescind.compensation.effects.blobs import BlobDamaged, Blobs
from rescind.compensation.effects.one_place import OnePlace, before_of, is_to_put_back
from rescind.compensation.effects.s3_store import NotConditional, Refused, Store, Stored, a_file
from rescind.errors import Conflict, DeclarationError, Transient, UsageError
from rescind.guard.effect import Call, PastStep
from rescind.model.step import Snapshot, Target


class S3Objects(OnePlace):
    """An object, before and after a call; the undo puts the content from before on top, if nobody has written since.

        reports = S3Objects(boto3.client("s3"), "reports", key=lambda name: f"{name}.csv")

        @guard.write("report.store", effect=reports)
        def store(name: str, text: str) -> None:
            s3.put_object(Bucket="reports", Key=f"{name}.csv", Body=text.encode())

    In a bucket that keeps versions, the journal holds the id of the version from before, and nothing is copied. In any
    other, contents are copied into `keep`, once per content; without `keep`, an object there is refused before the tool
    runs. An undo writes a new object, with the content type and the other headers, metadata, tags, storage class and
    server-side encryption with its key, or deletes one (a delete marker, where versions are kept). Access lists and
    locks are not touched.

    The write has a condition (`If-Match` with the ETag that was just compared, `If-None-Match: *` where there is none),
    so checking the bytes and writing are one step at a store that has conditional PutObject and DeleteObject. Metadata
    and tags have no part in an ETag: they are checked, and then acted upon. A store that refuses conditions needs
    `conditions="check"`; one that silently ignores them cannot be told apart from here, and is no better.

    The version is the content with all that is put back, hashed from the bytes, for an object that was put back can
    have another ETag. Each look reads the object. A tool that raised is unknown: a request may still arrive.
    """

    parallel = True

    def __init__(
        self,
        client: Any,
        bucket: str,
        *,
        key: Callable[..., str],
        keep: str | Path | None = None,
        conditions: Literal["store", "check"] = "store",
        system: str = "s3",
        bytes_max: int = 100 << 20,
    ) -> None:
        """Guard objects of a bucket.

        Args:
            client: Of boto3, for `s3`, with its credentials, endpoint and timeouts.
            bucket: The bucket.
            key: Which object, as a function of those of the tool's arguments that it names.
            keep: Where contents are kept that the bucket does not keep itself. The undo needs it, nothing cleans it up.
            conditions: Who compares: the store in one step with the write, or only the effect, just before it.
            system: What targets call the store.
            bytes_max: How large an object may be; a larger one is refused before the tool runs.
        """
        if conditions not in ("store", "check"):
            raise DeclarationError(f'conditions is {conditions!r}; it must be "store" or "check"')
        self._store, self._bucket = Store(client, bucket, bytes_max=bytes_max), bucket
        super().__init__(key, role="key", system=system)
        self._bytes_max = bytes_max
        self._blobs = Blobs(Path(keep).absolute()) if keep is not None else None
        self._conditional = conditions == "store"

    def target(self, arguments: Mapping[str, Any]) -> Target:
        """The target of a call with these arguments: bucket and key."""
        return Target(self._system, "object", f"{self._bucket}/{self._key_of(arguments)}")

    def open(self, call: Call) -> "_ObjectTouch":
        """See `Effect`. Raises: UsageError for too much, or what nobody keeps; S3Failed; Transient; OSError."""
        key = self._key_of(call.arguments)
        before = self.look(key, keep=True)
        if not before.absent and not before.image["version_id"] and self._blobs is None:
            raise UsageError(
                f"the bucket {self._bucket} keeps no versions, so what {key} holds now would be lost; the tool was not "
                "run. Say keep=FOLDER, or turn versioning on"
            )
        return _ObjectTouch(self, key, before)

    def observe(self, step: PastStep) -> Snapshot | None:
        """See `Effect`."""
        return self.look(step.before["key"]) if step.before else None

    def snapshot_of(self, step: PastStep, image: Any) -> Snapshot:
        """See `Imaging`. Only contents that are kept can be put there."""
        return _snapshot(image)

    def restore(self, step: PastStep) -> None:
        """See `Effect`. Raises also: ConnectionError, TimeoutError, if it may have happened; S3Failed."""
        before = before_of(step, "the object from")
        key = before.image["key"]
        stored = self._store.read(key)
        now = _snapshot(_image(key, stored))
        if not is_to_put_back(step, now, key):
            return
        if self._blobs is not None and stored and not stored.version_id and not self._blobs.holds(stored.sha256):
            self.look(key, keep=True)  # somebody's later content: there is a way back to it as well
        try:
            self._put_back(key, before, stored)
        except NotConditional as error:
            raise Conflict(
                f'{error}: it has no conditional writes, so nothing was changed; see conditions="check"'
            ) from error
        except Refused as error:
            seen = self.look(key)
            if seen.version == before.version:
                return  # another restore was quicker
            if seen.version != now.version:
                raise Conflict(f"{key} is not as the step left it: it changed just now, and was not touched") from error
            raise Transient(f"{key} was written by others while it was put back") from error

    def _put_back(self, key: str, before: Snapshot, stored: Stored | None) -> None:
        condition = {"IfNoneMatch": "*"} if stored is None else {"IfMatch": stored.etag}
        if not self._conditional:
            condition = {}
        if before.absent:
            self._store.delete(key, **condition)
            return
        image = before.image
        with a_file() as content:
            self._fetch(key, image, content)
            content.seek(0)
            self._store.put(
                key,
                content,
                Metadata=image["metadata"],
                **image["headers"],
                **image.get("encryption", {}),
                **({"Tagging": urlencode(image["tags"])} if image["tags"] else {}),
                **condition,
            )

    def _fetch(self, key: str, image: dict[str, Any], into: IO[bytes]) -> None:
        """What was there. Raises: Conflict, if nobody has it any more."""
        if image["version_id"]:
            found = self._store.read(key, into=into, version_id=image["version_id"])
            if found is None or found.sha256 != image["sha256"]:
                raise Conflict(f"the version {image['version_id']} of {key} is gone, so there is nothing to put back")
        elif self._blobs is None:
            raise Conflict(f"what {key} held was kept nowhere, so it was not touched; say keep=FOLDER")
        else:
            try:
                self._blobs.copy_to(image["sha256"], into.fileno())
            except BlobDamaged as error:
                raise Conflict(f"{key}: {error}") from error

    def look(self, key: str, *, keep: bool = False) -> Snapshot:
        """The object now. Raises: S3Failed, Transient, UsageError, ConnectionError, TimeoutError."""
        if not keep or self._blobs is None:
            return _snapshot(_image(key, self._store.read(key)))
        with a_file() as content:
            stored = self._store.read(key, into=content)
            if stored is not None and not stored.version_id:
                self._blobs.keep(content.fileno(), bytes_max=self._bytes_max)
        return _snapshot(_image(key, stored))

    def _key_of(self, arguments: Mapping[str, Any]) -> str:
        return self._name(arguments, bytes_max=1024)


def _image(key: str, stored: Stored | None) -> dict[str, Any]:
    if stored is None:
        return {"key": key}
    return {
        "key": key,
        "sha256": stored.sha256,
        "bytes": stored.size_bytes,
        "headers": stored.headers,
        "encryption": stored.encryption,
        "metadata": stored.metadata,
        "tags": stored.tags,
        "version_id": stored.version_id,
    }


def _snapshot(image: dict[str, Any]) -> Snapshot:
    """The version id is where the content can be had, and no part of the version: what is put back gets another.

    Nor is its encryption, which a bucket may change by a default of its own.
    """
    if "sha256" not in image:
        return Snapshot.of(image, absent=True)
    content = {name: value for name, value in image.items() if name not in ("version_id", "encryption")}
    return Snapshot.of(image, version=Snapshot.of(content).ref)


class _ObjectTouch:
    """See `Touch`."""

    def __init__(self, effect: S3Objects, key: str, before: Snapshot) -> None:
        self.before = before
        self._effect, self._key = effect, key

    def settle(self, result: Any) -> Snapshot:
        """See `Touch`."""
        return self._effect.look(self._key, keep=True)

    def abandon(self) -> bool:
        """See `Touch`. A request whose reply was lost may still arrive."""
        return False
