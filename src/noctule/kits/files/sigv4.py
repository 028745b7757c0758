"""Links to an S3 store that expire, and forms that upload to it: AWS Signature Version 4, by arithmetic alone.

Sources: "Authenticating Requests: Using Query Parameters" and "Browser-Based Uploads Using POST" of the Amazon S3 API
reference. A link is made without asking anybody, and the store checks it.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import msgspec

EXPIRES_S_MAX = 7 * 24 * 3600
"""S3 refuses links that are good for longer."""


@dataclass(frozen=True, slots=True)
class S3Signer:
    """Who signs, for which bucket. `url` is the bucket's, as clients reach it: a link is for that host only."""

    url: str
    bucket: str
    prefix: str
    """What stands before each key, without a slash at its ends; may be empty."""
    region: str
    access_key_id: str
    secret_access_key: str

    def __repr__(self) -> str:
        return f"S3Signer({self.url!r}, {self.region!r})"

    def presign(
        self,
        method: str,
        key: str,
        *,
        expires_s: int,
        wall_ms: int,
        query: Mapping[str, str] | None = None,
        content_type: str = "",
    ) -> str:
        """A link for one method on one key. `query` is signed too, as response-content-disposition; with `content_type`
        only a request with this header is good."""
        place, scope, stamp = urlsplit(self.url), self._scope(wall_ms), _stamp(wall_ms)
        path = _encode(f"{place.path}/{self._prefixed(key)}", safe="/")
        headers = {"content-type": content_type} if content_type else {}
        headers["host"] = place.netloc
        names = ";".join(headers)
        parameters = {
            **(query or {}),
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{self.access_key_id}/{scope}",
            "X-Amz-Date": stamp,
            "X-Amz-Expires": str(expires_s),
            "X-Amz-SignedHeaders": names,
        }
        told = "&".join(f"{_encode(name)}={_encode(value)}" for name, value in sorted(parameters.items()))
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        request = f"{method}\n{path}\n{told}\n{lines}\n{names}\nUNSIGNED-PAYLOAD"
        digest = hashlib.sha256(request.encode()).hexdigest()
        signature = self._sign(f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}", wall_ms)
        return f"{place.scheme}://{place.netloc}{path}?{told}&X-Amz-Signature={signature}"

    def post_policy(
        self, key: str, *, expires_s: int, wall_ms: int, content_type: str, bytes_max: int
    ) -> dict[str, str]:
        """The fields of a form that uploads this key, with this type and at most so many bytes, to the bucket's URL."""
        stamp, scope = _stamp(wall_ms), self._scope(wall_ms)
        fields = {
            "key": self._prefixed(key),
            "Content-Type": content_type,
            "x-amz-algorithm": "AWS4-HMAC-SHA256",
            "x-amz-credential": f"{self.access_key_id}/{scope}",
            "x-amz-date": stamp,
        }
        until = datetime.fromtimestamp(wall_ms / 1000 + expires_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        conditions: list[object] = [{name: value} for name, value in fields.items()]
        conditions += [["content-length-range", 0, bytes_max], {"bucket": self.bucket}]
        policy = base64.b64encode(msgspec.json.encode({"expiration": until, "conditions": conditions})).decode()
        return {**fields, "policy": policy, "x-amz-signature": self._sign(policy, wall_ms)}

    def public_url(self, key: str) -> str:
        """Where a key is, without a signature."""
        return f"{self.url}/{_encode(self._prefixed(key), safe='/')}"

    def _prefixed(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _scope(self, wall_ms: int) -> str:
        return f"{_stamp(wall_ms)[:8]}/{self.region}/s3/aws4_request"

    def _sign(self, text: str, wall_ms: int) -> str:
        key = b"AWS4" + self.secret_access_key.encode()
        for part in self._scope(wall_ms).split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _stamp(wall_ms: int) -> str:
    return datetime.fromtimestamp(wall_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")


def _encode(text: str, safe: str = "") -> str:
    return quote(text, safe=f"{safe}-_.~")
