"""tracking.uri as people write it -> the address of an MLflow server, or of a SQLite file of this machine.

What is meant is taken: `localhost:5000` is http://localhost:5000, the URL of a browser's page is its server, `runs.db`
is a SQLite file, and a relative one is looked for where the program was started. The rest is refused in one line,
before anything is created. A password in it would be kept with the run, in the configuration and in MLflow, so none
is taken; no error repeats it.
"""

import re
from pathlib import Path
from urllib.parse import urlsplit

from distseg.errors import ConfigError

OFF = "off"  # a tracking.uri

_FORMS = "give an MLflow server as http://HOST:PORT, a file as sqlite:///FILE.db, or off"
_DATABASES = ("postgresql", "mysql", "mssql")
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):\d{1,5}(/.*)?")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?!\d{1,5}(/|$))")
_SQLITE_FILE = re.compile(r"[^?#]+\.(db|sqlite|sqlite3)")
_SECRET = re.compile(r"(?<=[?&;])(?:user|password|pwd|token|sslpassword)=(?P<value>[^&;]*)", re.IGNORECASE)


def tracking_address(name: str, uri: str) -> str:
    """The address that `uri` means; `name` is the field or option that it comes from. Raises ConfigError."""
    uri = uri.strip()
    scheme = (found[1].lower() if (found := _SCHEME.match(uri)) else "") or (
        "http" if _HOST_PORT.fullmatch(uri) else ""
    )
    dialect = scheme.partition("+")[0]
    if dialect not in ("sqlite", "file") and ("@" in uri or _SECRET.search(uri)):
        raise _carries_password(name, dialect)
    if uri == OFF:
        return OFF
    if not uri.isprintable():
        raise ConfigError(f"{name} = {uri!r:.200}: holds what cannot be printed; {_FORMS}")
    if dialect == "sqlite":
        return _sqlite(name, uri)
    if scheme in ("http", "https"):
        return _server(name, uri if "://" in uri else f"http://{uri}")
    if dialect in _DATABASES:
        return uri
    if scheme == "databricks" or uri.partition("-")[0] == "databricks" or scheme == "uc":
        raise ConfigError(f"{name} = {uri!r}: runs are not sent to Databricks; {_FORMS}")
    if not scheme and _SQLITE_FILE.fullmatch(uri):
        return _sqlite(name, f"sqlite:///{uri}")
    if scheme in ("", "file"):
        raise ConfigError(f"{name} = {uri!r:.200}: MLflow keeps no runs in plain directories any more; {_FORMS}")
    raise ConfigError(f"{name} = {uri!r:.200}: {scheme!r} is no kind of MLflow server; {_FORMS}")


def _carries_password(name: str, dialect: str) -> ConfigError:
    if dialect in _DATABASES:
        remedy = "give the URL without them, and them by the database's own means (PostgreSQL: PGUSER, PGPASSWORD)"
    else:
        remedy = "give the server's plain URL and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    return ConfigError(f"{name} carries a user or password, which would be kept with the run: {remedy}")


def _sqlite(name: str, uri: str) -> str:
    """With an absolute path, as the workers of a cluster are started elsewhere."""
    scheme, colon, rest = uri.partition(":///")
    path, mark, options = rest.partition("?")
    if not colon or not path:
        raise ConfigError(
            f"{name} = {uri!r:.200}: a SQLite file is given by three slashes, as sqlite:///runs/mlflow.db"
        )
    if path == ":memory:":
        raise ConfigError(f"{name} = {uri!r}: would keep nothing; give a file, as sqlite:///runs/mlflow.db")
    absolute = Path(path).absolute()
    if absolute.is_dir():
        raise ConfigError(
            f"{name} = {uri!r:.200}: is a directory; name a file in it, as sqlite:///{absolute}/mlflow.db"
        )
    if not absolute.parent.is_dir():
        raise ConfigError(f"{name} = {uri!r:.200}: {absolute.parent} is no directory; create it, or give another file")
    return f"{scheme}:///{absolute}{mark}{options}"


def _server(name: str, uri: str) -> str:
    """Of a browser's page, `http://host:5000/#/experiments/1`, the server."""
    try:
        parts = urlsplit(uri.partition("#")[0])
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if not host or re.search(r"[\s\\]", parts.netloc) or port == 0:
        raise ConfigError(f"{name} = {uri!r:.200}: names no host and port; {_FORMS}")
    if parts.query:
        raise ConfigError(f"{name} = {uri!r:.200}: give the server's address without what follows the '?'")
    return f"{parts.scheme.lower()}://{parts.netloc}{parts.path.rstrip('/')}"


def is_local_file(uri: str) -> bool:
    """Whether only processes of one machine can reach it."""
    return uri.startswith("sqlite")


def is_on_this_machine(uri: str) -> bool:
    """Whether the server has the disk of this machine, as far as its address tells."""
    return is_local_file(uri) or urlsplit(uri).hostname in ("localhost", "127.0.0.1", "::1")


def without_password(uri: str) -> str:
    """The URI without a user and a password, wherever it has them."""
    scheme, _, rest = uri.partition("://")
    if not rest or scheme.startswith("sqlite"):
        return uri
    place, slash, path = rest.partition("/")
    if "@" in path and "@" not in place:  # a password with a slash in it
        place, slash, path = rest.rpartition("@")[2].partition("/")
    return _SECRET.sub("***", f"{scheme}://{place.rpartition('@')[2]}{slash}{path}")
