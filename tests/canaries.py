"""Secrets that must come out nowhere: given to programs, and looked for in all that these leave.

PLANTED           an environment with all secrets that a cluster has; servers that ask for none take any
found(secrets, …) what shows one of them: files below folders, and texts by name
"""

import base64
import secrets as randomness
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote


def canary(name: str) -> str:
    """Like nothing else, of characters that addresses spell otherwise."""
    return f"{name}/{randomness.token_hex(12)}+canary"


_PROXY = f"http://me:{quote(canary('proxy'), safe='')}@127.0.0.1:9"
PLANTED = {
    "AWS_ACCESS_KEY_ID": randomness.token_hex(10),
    "AWS_SECRET_ACCESS_KEY": canary("s3"),
    "AWS_DEFAULT_REGION": "us-east-1",
    "MLFLOW_TRACKING_USERNAME": "admin",
    "MLFLOW_TRACKING_PASSWORD": canary("mlflow"),
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": randomness.token_hex(32),
    "HTTP_PROXY": _PROXY,
    "HTTPS_PROXY": _PROXY,
    "http_proxy": _PROXY,
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}
_NO_SECRETS = ("AWS_DEFAULT_REGION", "MLFLOW_TRACKING_USERNAME", "RAY_AUTH_MODE", "NO_PROXY", "no_proxy")


def secrets_of(environment: Mapping[str, str]) -> list[str]:
    """Of what PLANTED names; of an address, the password alone."""
    given = {environment[name] for name in PLANTED.keys() - set(_NO_SECRETS) if name in environment}
    return sorted(value.partition("://me:")[2].partition("@")[0] or value for value in given)


def spellings(secret: str) -> Iterator[bytes]:
    """As it is, in an address, in JSON, and in the header by which a user and password are sent."""
    yield secret.encode()
    yield quote(secret, safe="").encode()
    yield secret.replace("/", "\\/").encode()
    yield base64.b64encode(f"admin:{secret}".encode())


def found(secrets: Iterable[str], *folders: Path, **texts: str) -> list[str]:
    """Names of the files and texts that have one of the secrets, with what stands before it."""
    places = {str(path): path.read_bytes() for folder in folders for path in files(folder)}
    places |= {name: text.encode() for name, text in texts.items()}
    assert sum(map(len, places.values())) > 1000, "there is nothing to look at"
    wanted = [spelling for secret in secrets for spelling in spellings(secret)]
    assert wanted, "nothing was planted"
    return [
        f"{name}: {data[max(0, at - 80) : at]!r} …"
        for name, data in places.items()
        for spelling in wanted
        if (at := data.find(spelling)) >= 0
    ]


def files(folder: Path) -> Iterator[Path]:
    """Those that can be read: no sockets, no links."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path
