"""One process at a time works on a run or a search: whoever does has written `lock.json` into its directory.

    with lease.taken(uri, "is training it"):    raises TrainingError that names the other process, if there is one

The holder renews the file every RENEWED_S. A lock whose holder is dead is taken over: at once if the process was on
this machine, or belongs to the same job of Ray, which begins again only after its driver has died; otherwise if the
file does not change for EXPIRED_S. No clock is compared with another machine's, nor with itself: a clock that is set,
by hours or by NTP, changes nothing.

The file is made by `storage.create`, which succeeds for one process only. Two may take over an old lock together: then
whoever still finds its own file after SETTLED_S has it.
"""

import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from distseg import storage
from distseg.errors import StorageError, TrainingError

log = logging.getLogger(__name__)

FILE = "lock.json"
TRAINS_IT = "is training it"
RENEWED_S, EXPIRED_S, SETTLED_S = 10.0, 30.0, 2.0
_DEADLINE_S = 20.0  # of a renewal
_STARTTIME = 19  # its place after the name of the program, see proc_pid_stat(5)

_held: set[str] = set()  # the tokens of this process


@contextlib.contextmanager
def taken(uri: str, doing: str, *, owner: str = "") -> Iterator[None]:
    """Holds the lock of the directory `uri` during the block. `owner`: the job of Ray, if it is one.

    Raises TrainingError if a living process holds it.
    """
    lock_uri = storage.join(uri, FILE)
    about = _about(doing, owner)
    _take(lock_uri, about, owner)
    _held.add(about["token"])
    done = threading.Event()
    threading.Thread(target=_renew, args=(lock_uri, about, done), name="lease", daemon=True).start()
    try:
        yield
    finally:
        done.set()
        _held.discard(about["token"])
        with contextlib.suppress(StorageError):  # it expires
            if _read(lock_uri).get("token") == about["token"]:
                storage.delete(lock_uri, deadline_s=_DEADLINE_S)


def _about(doing: str, owner: str) -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "machine": _machine(),
        "started_s": psutil.Process().create_time(),  # for versions that know no started_ticks
        "started_ticks": _started_ticks(os.getpid()),
        "owner": owner,
        "doing": doing,
        "token": secrets.token_hex(8),
        "renewals": 0,
    }


def _machine() -> str:
    """The same for processes that see each other by their numbers: one boot, and one container."""
    with contextlib.suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    return socket.gethostname()


# ---- taking it


def _take(lock_uri: str, about: dict[str, Any], owner: str) -> None:
    if storage.create(lock_uri, _as_bytes(about)):
        return
    other = _read(lock_uri)
    if other and not (owner and other.get("owner") == owner):
        _check_dead(lock_uri, other)
    log.info("%s: the lock of process %s on %s is taken over", lock_uri, other.get("pid"), other.get("host"))
    storage.delete(lock_uri)
    storage.create(lock_uri, _as_bytes(about))
    time.sleep(SETTLED_S)  # another one may be taking it over, too
    winner = _read(lock_uri)
    if winner.get("token") != about["token"]:
        raise _refused(lock_uri, winner)


def _check_dead(lock_uri: str, other: dict[str, Any]) -> None:
    """Raises TrainingError if the holder lives."""
    if other.get("machine") == _machine():
        if _is_alive(other):
            raise _refused(lock_uri, other)
        return
    log.warning(
        "%s: process %s on %s held it; looking for %.0f s whether it still lives",
        *(lock_uri, other["pid"], other["host"], EXPIRED_S),
    )
    end_s = time.monotonic() + EXPIRED_S
    while (left_s := end_s - time.monotonic()) > 0:
        time.sleep(min(1.0, left_s))
        now = _read(lock_uri)
        if now.get("token") is None:  # released
            return
        if now != other:
            raise _refused(lock_uri, now)


def _is_alive(other: dict[str, Any]) -> bool:
    if other["pid"] == os.getpid():
        return other.get("token") in _held
    try:
        process = psutil.Process(other["pid"])
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):  # only its number is left
            return False
        ticks = _started_ticks(other["pid"])
        if ticks is not None and other.get("started_ticks") is not None:
            return bool(ticks == other["started_ticks"])
        return bool(abs(process.create_time() - other["started_s"]) < 2.0)
    except psutil.Error:
        return False


def _started_ticks(pid: int) -> int | None:
    """When the process began, counted since the machine's start; None where only a time of the clock is known.

    psutil tells it by the clock, and by the clock as it is now: after a change the same process has another time.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[_STARTTIME])
    return None


def _refused(lock_uri: str, other: dict[str, Any]) -> TrainingError:
    place = lock_uri.removesuffix(f"/{FILE}")
    return TrainingError(
        f"{place}: process {other.get('pid')} on {other.get('host')} {other.get('doing')}; wait for its end or stop it"
    )


# ---- keeping it


def _renew(lock_uri: str, about: dict[str, Any], done: threading.Event) -> None:
    """Ends this process if another one has taken the lock over: both must not write."""
    has_failed = False
    while not done.wait(RENEWED_S):
        try:
            found = _read(lock_uri)
            if found.get("token") not in (None, about["token"]):
                log.error("%s; this process ends", _refused(lock_uri, found))
                for _ in range(2):  # the second signal: at once
                    os.kill(os.getpid(), signal.SIGTERM)
                    if done.wait(1.0):
                        break
                return
            about["renewals"] += 1
            storage.write_bytes(lock_uri, _as_bytes(about), deadline_s=_DEADLINE_S)
            has_failed = False
        except StorageError as error:
            if not has_failed and not done.is_set():
                log.warning("the lock is not renewed: %s", error)
            has_failed = True


def _read(lock_uri: str) -> dict[str, Any]:
    """Empty if there is no lock; a damaged one is of process "?" and expires."""
    try:
        data = storage.read_bytes(lock_uri, deadline_s=_DEADLINE_S)
    except StorageError:
        if storage.exists(lock_uri, deadline_s=_DEADLINE_S):
            raise
        return {}
    unknown = {"host": "?", "pid": "?", "token": "?", "doing": "works on it"}
    try:
        found = json.loads(data)
        kinds = {"host": str, "pid": int, "token": str, "started_s": float, "doing": str}
        return found if all(isinstance(found[name], kind) for name, kind in kinds.items()) else unknown
    except (ValueError, RecursionError, KeyError, TypeError):
        return unknown


def _as_bytes(about: dict[str, Any]) -> bytes:
    return json.dumps(about, indent=1).encode()
