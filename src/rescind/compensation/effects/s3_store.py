"""Requests to a store of objects, and what its answers mean for an undo.

What an exception says is made of the operation, the place and the store's error code; messages of stores can repeat
keys and tokens, and are neither quoted nor chained.
"""

import hashlib
import tempfile
from collections.abc import Callable
from contextlib import closing, contextmanager
from typing import IO, TYPE_CHECKING, Any, NamedTuple

try:
    import botocore.exceptions as boto  # pyright: ignore[reportMissingTypeStubs]  # it has none
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("S3Objects needs boto3: pip install 'rescind[s3]'", name=missing.name) from missing

from rescind.errors import RescindError, Transient, UsageError

if TYPE_CHECKING:
    from collections.abc import Generator

# What boto3 answers has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

_CHUNK_BYTES = 1 << 20
_BUSY = frozenset({"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "ServiceUnavailable"})
_ABSENT = frozenset({"NoSuchKey", "NoSuchVersion", "404"})
_REFUSED = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "OperationAborted", "NoSuchKey"})
HEADERS = (
    "ContentType",
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "StorageClass",
    "WebsiteRedirectLocation",
)
"""What stays with an object besides its bytes, metadata and tags, and `Expires`."""
ENCRYPTION = ("ServerSideEncryption", "SSEKMSKeyId", "BucketKeyEnabled")
"""How it is stored; an object is no other one because of that."""


class S3Failed(RescindError):
    """A store said no, or nothing that can be used."""


class Refused(RescindError):
    """A condition of a write was not met, so nothing was written."""


class NotConditional(RescindError):
    """The store does not know conditional writes; nothing was written."""


class Stored(NamedTuple):
    """An object at one moment. `version_id` is empty in a bucket that keeps no versions."""

    etag: str
    version_id: str
    sha256: str
    size_bytes: int
    headers: dict[str, str]
    encryption: dict[str, Any]
    metadata: dict[str, str]
    tags: dict[str, str]


class Store:
    """One bucket, by somebody's client of boto3. Threads may share it."""

    def __init__(self, client: Any, bucket: str, *, bytes_max: int) -> None:
        self.client, self._bucket, self._bytes_max = client, bucket, bytes_max

    def read(self, key: str, *, into: IO[bytes] | None = None, version_id: str = "") -> Stored | None:
        """The object, or one version of it; its bytes go into a file, if one is given. None if there is none.

        Raises: UsageError beyond `bytes_max`; Transient; S3Failed; ConnectionError; TimeoutError.
        """
        which = {"Bucket": self._bucket, "Key": key} | ({"VersionId": version_id} if version_id else {})
        with self._translated("GetObject", key, writes=False):
            try:
                found = self.client.get_object(**which)
            except boto.ClientError as error:
                if error.response["Error"]["Code"] in _ABSENT:
                    return None
                raise
            with closing(found["Body"]) as body:
                sha256, size = self._copy(key, body, into)
            tags: list[dict[str, str]] = []
            if found.get("TagCount"):
                shown = found.get("VersionId", "")
                of = {"Bucket": self._bucket, "Key": key} | ({"VersionId": shown} if shown else {})
                tags = self.client.get_object_tagging(**of)["TagSet"]
        version = found.get("VersionId", "")
        return Stored(
            etag=found["ETag"],
            version_id="" if version == "null" else version,  # the next write replaces the version of that name
            sha256=sha256,
            size_bytes=size,
            headers={name: found[name] for name in HEADERS if found.get(name)}
            | ({"Expires": found["ExpiresString"]} if found.get("Expires") and "ExpiresString" in found else {}),
            encryption={name: found[name] for name in ENCRYPTION if found.get(name)},
            metadata=dict(found.get("Metadata", {})),
            tags={tag["Key"]: tag["Value"] for tag in tags},
        )

    def _copy(self, key: str, body: Any, into: IO[bytes] | None) -> tuple[str, int]:
        digest, size = hashlib.sha256(), 0
        while chunk := body.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            if size > self._bytes_max:
                raise UsageError(f"{self._bucket}/{key} holds more than bytes_max={self._bytes_max:,}; raise it")
            rest = memoryview(chunk if into is not None else b"")
            while into is not None and rest:
                rest = rest[into.write(rest) :]  # a file without a buffer may take less than it is given
        return digest.hexdigest(), size

    def put(self, key: str, body: IO[bytes], **parameters: Any) -> None:
        """Write an object. Raises: as `write`."""
        self._write("PutObject", self.client.put_object, key, Body=body, **parameters)

    def delete(self, key: str, **parameters: Any) -> None:
        """Delete an object; where versions are kept, a delete marker is put on top. Raises: as `write`."""
        self._write("DeleteObject", self.client.delete_object, key, **parameters)

    def _write(self, operation: str, send: Callable[..., Any], key: str, **parameters: Any) -> None:
        """Raises: Refused, NotConditional or Transient, if nothing was written; ConnectionError, TimeoutError else."""
        with self._translated(operation, key, writes=True):
            send(Bucket=self._bucket, Key=key, **parameters)

    @contextmanager
    def _translated(self, operation: str, key: str, *, writes: bool) -> "Generator[None]":
        where = f"{operation} {self._bucket}/{key}"
        try:
            yield
        except boto.ClientError as error:
            raise _meaning(where, error, writes=writes) from None
        except (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError):
            raise Transient(f"{where}: no connection") from None
        except boto.ReadTimeoutError:
            raise TimeoutError(f"{where}: no answer in time") from None
        except (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError) as error:
            raise ConnectionError(f"{where}: the connection broke ({type(error).__name__})") from None
        except (boto.BotoCoreError, ValueError) as error:
            raise S3Failed(f"{where}: {type(error).__name__}; look at the client's settings") from None


def _meaning(where: str, error: Any, *, writes: bool) -> Exception:
    code = str(error.response["Error"].get("Code", ""))[:100]
    answer = error.response.get("ResponseMetadata", {})
    status = int(answer.get("HTTPStatusCode", 0))
    words = f"{where}: the store answered {status} {code}"
    if code in _BUSY or status in (429, 503):
        wait = str(answer.get("HTTPHeaders", {}).get("retry-after", ""))
        return Transient(words, retry_after_s=min(float(wait), 3600.0) if wait.isdecimal() else 0.0)
    if writes and (code in _REFUSED or status == 412):
        return Refused(words)
    if writes and (code == "NotImplemented" or status == 501):
        return NotConditional(words)
    if status >= 500:
        return ConnectionError(f"{words}; it may have happened") if writes else Transient(words)
    return S3Failed(words)


def a_file() -> IO[bytes]:
    """A file without a name, for one object on its way."""
    return tempfile.TemporaryFile(buffering=0)
