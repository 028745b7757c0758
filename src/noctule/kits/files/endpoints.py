"""Stores of files by URL: an S3 bucket, or a folder of this machine.

    s3://bucket/prefix?endpoint=https://s3.example.com&region=eu-central-1&access_key_id=…&secret_access_key=…
    file:///var/lib/app/files?shared=true

With `shared=true` a folder is declared to be seen by all instances of the app: they run on one machine, or it is a file
system that all their machines mount. Nothing here can find that out.

With `public=true` anybody may read the files without a signature: because the bucket's policy says so, or from a folder
by `serving.FileLinks`. Without it all are private. Without `endpoint` the bucket is Amazon's. `public_endpoint` is
where clients reach the store, if that is another host: links are signed for it. Without keys in the URL
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are used.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from obstore.store import LocalStore, S3Store

from noctule.base.errors import ConfigError
from noctule.kits.files.sigv4 import S3Signer

CONNECT_TIMEOUT_S = 1
TRANSFER_TIMEOUT_S = 24 * 3600
"""For one request with its whole body, which whoever reads it may read slowly; chain.py bounds each wait in it."""
RETRIES_MAX = 2
RETRY_S_MAX = 5
"""obstore's own default repeats a 501 ten times."""

ObjectStore: TypeAlias = S3Store | LocalStore

_OPTIONS = {"endpoint", "public_endpoint", "region", "access_key_id", "secret_access_key", "public"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One store of the chain."""

    name: str
    """For logs and the journal; has no secret in it."""
    store: ObjectStore
    signer: S3Signer | None
    """None for a folder."""
    is_public: bool = False
    """Whether files may be read without a signature."""
    is_shared: bool = True
    """Whether every instance sees what is in it: a bucket is by its nature, a folder when its URL says so."""

    @property
    def is_local(self) -> bool:
        """Whether it is a folder."""
        return self.signer is None


def load_endpoints(urls: str) -> tuple[Endpoint, ...]:
    """The chain that a comma-separated list of URLs names, in order. Raises `ConfigError`, without secrets in it."""
    found = tuple(_load(url.strip()) for url in urls.split(",") if url.strip())
    if not found:
        raise ConfigError("files: no store is named; give a URL such as s3://bucket or file:///var/lib/app/files")
    if len({each.name for each in found}) != len(found):
        raise ConfigError("files: two stores of the chain are the same")
    return found


def _load(url: str) -> Endpoint:
    parts = urlsplit(url)
    if parts.scheme == "file":
        path = unquote(parts.path)
        if parts.netloc or not path.startswith("/"):
            raise ConfigError("files: a folder is named by its whole path, as in file:///var/lib/app/files")
        options = _options(path, parts.query, {"public", "shared"})
        is_public, is_shared = (_is_true(name, path, options) for name in ("public", "shared"))
        return Endpoint(f"file://{path}", _folder(path), None, is_public, is_shared)
    if parts.scheme != "s3" or not parts.netloc or "@" in parts.netloc:
        raise ConfigError(f"files: a URL begins with s3://bucket or file:///, not {parts.scheme}://…")
    return _bucket(parts.netloc, parts.path.strip("/"), _options(parts.netloc, parts.query, _OPTIONS))


def _options(name: str, query: str, known: set[str]) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(options.keys() - known):
        raise ConfigError(f"files: {name} has unknown options {', '.join(unknown)}")
    return options


def _is_true(option: str, name: str, options: dict[str, str]) -> bool:
    said = options.get(option, "false")
    if said not in ("true", "false"):
        raise ConfigError(f"files: {option} of {name} is true or false")
    return said == "true"


def _folder(path: str) -> LocalStore:
    try:
        Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)  # Private: obstore's own has the umask's mode.
        return LocalStore(path)
    except Exception as error:  # obstore raises a class of its own for each cause, and a plain one for some.
        raise ConfigError(f"files: the folder {path} cannot be used: {type(error).__name__}") from None


def _bucket(bucket: str, prefix: str, options: dict[str, str]) -> Endpoint:
    region = options.get("region", "us-east-1")
    key_id = options.get("access_key_id") or os.environ.get("AWS_ACCESS_KEY_ID", "")
    secret = options.get("secret_access_key") or os.environ.get("AWS_SECRET_ACCESS_KEY", "")
    if not key_id or not secret:
        raise ConfigError(f"files: s3://{bucket} needs access_key_id and secret_access_key")
    endpoint = options.get("endpoint", "").rstrip("/")
    amazon = f"https://{bucket}.s3.{region}.amazonaws.com"
    config = {"region": region, "access_key_id": key_id, "secret_access_key": secret}
    if endpoint:
        config["endpoint"] = endpoint
    else:
        config["virtual_hosted_style_request"] = "true"
    store = S3Store(
        bucket,
        prefix=prefix or None,
        config=config,  # type: ignore[arg-type]
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
            "timeout": timedelta(seconds=TRANSFER_TIMEOUT_S),
        },
        retry_config={"max_retries": RETRIES_MAX, "retry_timeout": timedelta(seconds=RETRY_S_MAX)},
    )
    public = options.get("public_endpoint", "").rstrip("/") or endpoint
    signer = S3Signer(f"{public}/{bucket}" if public else amazon, bucket, prefix, region, key_id, secret)
    return Endpoint(
        f"{endpoint or 'aws'}/{bucket}/{prefix}".rstrip("/"), store, signer, _is_true("public", bucket, options)
    )
