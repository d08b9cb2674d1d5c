"""Tars that others wrote are not trusted."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distseg.data import raw
from distseg.data.raw import tars
from distseg.errors import DataError


def write_tar(path: Path, *members: tuple[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_members_of_one_name_are_a_sample(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar",
        ("0001.jpg", b"photo"),
        ("0001.seg.png", b"label"),
        ("0001.json", b'{"condition": "fog", "n": 3}'),
        ("./b/0002.PNG", b"p"),
        ("./b/0002.label.png", b"l"),
        ("./b/0002.json", b"[" * 9000),
    )
    first, second = raw.tar_samples(str(path))
    assert (first.key, first.said, second.key, second.said) == ("0001", {"condition": "fog"}, "b/0002", {})
    data = path.read_bytes()
    assert [data[p.offset : p.offset + p.size] for p in (first.image, first.label)] == [b"photo", b"label"]
    assert (second.image.name, second.label.name) == ("b/0002.PNG", "b/0002.label.png")


def link(kind: bytes, name: str = "a.jpg", target: str = "/etc/passwd") -> Callable[[tarfile.TarFile], None]:
    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        tar.addfile(info)

    return add


def named(name: str) -> Callable[[tarfile.TarFile], None]:
    return lambda tar: tar.addfile(tarfile.TarInfo(name))


def huge(tar: tarfile.TarFile) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.size = 1 << 40
    assert tar.fileobj is not None
    tar.fileobj.write(info.tobuf())


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (link(tarfile.SYMTYPE), r"'a\.jpg': a link, a device or the like"),
        (link(tarfile.LNKTYPE), r"'a\.jpg': a link, a device or the like"),
        (link(tarfile.CHRTYPE), r"'a\.jpg': a link, a device or the like"),
        (link(tarfile.FIFOTYPE), r"'a\.jpg': a link, a device or the like"),
        (named("/etc/a.jpg"), r"'/etc/a\.jpg': a name that leads out of the tar"),
        (named("../a.jpg"), r"'\.\./a\.jpg': a name that leads out of the tar"),
        (named("b/../../a.jpg"), r"'b/\.\./\.\./a\.jpg': a name that leads out of the tar"),
        (named("a\x1b[31m.jpg"), r"'a\\x1b\[31m\.jpg': a name that leads out of the tar"),
        (huge, r"a\.jpg: 1099511627776 bytes, but the tar ends before"),
    ],
)
def test_hostile_members_are_named(tmp_path: Path, add: Callable[[tarfile.TarFile], None], message: str) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar)
    with pytest.raises(DataError, match=rf"x\.tar: {message}") as caught:
        raw.tar_samples(str(tmp_path / "x.tar"))
    assert "\x1b" not in str(caught.value)


def test_what_systems_leave_behind_is_no_sample(tmp_path: Path) -> None:
    sample = [("a.jpg", b"1"), ("a.label.png", b"2")]
    left = [("._a.jpg", b"?"), ("./.DS_Store", b"?"), ("__MACOSX/._a.jpg", b"?")]
    (found,) = raw.tar_samples(str(write_tar(tmp_path / "x.tar", *left, *sample)))
    assert found.key == "a"


def test_what_long_json_says_counts(tmp_path: Path) -> None:
    content = {"polygon": "x" * 100_000, "condition": "night", "site": "\ud800"}
    members = [("a.jpg", b"1"), ("a.label.png", b"2"), ("a.JSON", json.dumps(content).encode())]
    (found,) = raw.tar_samples(str(write_tar(tmp_path / "x.tar", *members)))
    assert (found.said["condition"], found.said["site"]) == ("night", "?")


def test_json_too_long_to_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "_MAX_JSON_BYTES", 1)
    with pytest.raises(DataError, match=r"x\.tar: a\.json: 2 bytes of JSON; leave out what is not needed"):
        raw.tar_samples(str(write_tar(tmp_path / "x.tar", ("a.json", b"{}"))))


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", ("a.jpg", b"1"), ("a.label.png", b"2"), ("a.jpg", b"3"))
    with pytest.raises(DataError, match=r"x\.tar: a\.jpg: there twice"):
        raw.tar_samples(str(path))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.jpg"], r"x\.tar: a: no label map among jpg; it ends in one of label\.png, .* \(--label\)"),
        (["a.label.png"], r"x\.tar: a: no photograph among label\.png; it ends in one of jpg, jpeg, png"),
    ],
)
def test_a_sample_that_is_not_whole_is_named(tmp_path: Path, names: list[str], message: str) -> None:
    path = write_tar(tmp_path / "x.tar", *((name, b"") for name in names))
    with pytest.raises(DataError, match=message):
        raw.tar_samples(str(path))


@settings(max_examples=100)
@given(at=st.integers(0, 3071), put_in=st.binary(max_size=40), stop=st.integers(0, 10240))
def test_a_damaged_tar_is_read_or_one_line(
    at: int, put_in: bytes, stop: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write_tar(
        tmp_path_factory.getbasetemp() / "damaged.tar", ("a.jpg", b"1"), ("a.label.png", b"2"), ("a.json", b"{}")
    )
    data = bytearray(path.read_bytes())
    data[at : at + len(put_in)] = put_in
    path.write_bytes(data[:stop])
    try:
        raw.tar_samples(str(path))
    except DataError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
