"""Directories in buckets come to local disk once, whole, and again only when they have changed."""

import fsspec
import pytest

from openko import staging
from openko.errors import InputError


@pytest.fixture
def bucket():
    files = fsspec.filesystem("memory")
    files.pipe({"/store/shards/a.bin": b"123", "/store/shards/deep/b.bin": b"45678"})
    yield files
    files.rm("/store", recursive=True)


def content(directory):
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_a_local_directory_is_itself(tmp_path):
    assert staging.local(tmp_path) == staging.local(str(tmp_path)) == tmp_path


def test_every_file_of_a_remote_directory_comes(bucket, tmp_path):
    found = staging.local("memory://store/shards", cache=tmp_path)
    assert found.name == "shards" and content(found) == {"a.bin": b"123", "deep/b.bin": b"45678"}


def test_staged_once_nothing_is_fetched_again(bucket, tmp_path, monkeypatch):
    first = staging.local("memory://store/shards", cache=tmp_path)
    monkeypatch.setattr(type(bucket), "get_file", None)
    assert staging.local("memory://store/shards/", cache=tmp_path) == first


def test_what_has_changed_is_fetched_again(bucket, tmp_path):
    staging.local("memory://store/shards", cache=tmp_path)
    bucket.pipe("/store/shards/a.bin", b"1234")
    bucket.rm("/store/shards/deep/b.bin")
    assert content(staging.local("memory://store/shards", cache=tmp_path)) == {"a.bin": b"1234"}


def test_a_damaged_copy_is_fetched_again(bucket, tmp_path):
    found = staging.local("memory://store/shards", cache=tmp_path)
    (found / "a.bin").write_bytes(b"")
    assert content(staging.local("memory://store/shards", cache=tmp_path))["a.bin"] == b"123"


def test_an_interrupted_staging_goes_on(bucket, tmp_path, monkeypatch):
    plain, fetched = type(bucket).get_file, []

    def once(self, source, target, **options):
        if len(fetched) == 1:
            raise KeyboardInterrupt
        fetched.append(source)
        plain(self, source, target, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(bucket), "get_file", once)
        staging.local("memory://store/shards", cache=tmp_path)
    assert not list(tmp_path.glob("*/shards"))  # no half directory under the final name

    def remember(self, source, target, **options):
        fetched.append(source)
        plain(self, source, target, **options)

    monkeypatch.setattr(type(bucket), "get_file", remember)
    assert len(content(staging.local("memory://store/shards", cache=tmp_path))) == 2
    assert len(fetched) == len(set(fetched)) == 2


def test_a_file_that_came_short_is_refused(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(type(bucket), "get_file", lambda self, source, target, **options: open(target, "wb").close())
    with pytest.raises(InputError, match=r"a\.bin came with 0 bytes in place of 3: run again"):
        staging.local("memory://store/shards", cache=tmp_path)


@pytest.mark.parametrize(("url", "said"), [("memory://store/nothing", "has no files"), ("nowhere://a/b", "cannot be read")])
def test_what_cannot_be_staged_is_named(bucket, tmp_path, url, said):
    with pytest.raises(InputError, match=f"{url} {said}"):
        staging.local(url, cache=tmp_path)


def test_too_little_room_is_said_before_anything_is_fetched(bucket, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 2})
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="OPENKO_CACHE"):
        staging.local("memory://store/shards", cache=tmp_path)
