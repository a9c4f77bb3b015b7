"""openko.manifest: a directory under its final name is whole, and is made again only when something changed."""

import errno
import json
import os
import shutil

import pytest
import xxhash

from openko import manifest
from openko.errors import InputError


def hello(partial):
    (partial / "sub").mkdir(exist_ok=True)
    (partial / "sub" / "hello.txt").write_text("안녕", encoding="utf-8")
    return {"words": 1}


def not_again(partial):
    raise AssertionError("make was called")


def build(directory, make=hello, *, kind="greeting", recipe=None, inputs=None, module="openko.errors", say=lambda line: None, **options):
    making = {"kind": kind, "recipe": recipe or {"n": 1}, "inputs": inputs or {}, "module": module, "make": make, "say": say}
    return manifest.build(directory, **making, **options)


@pytest.fixture
def made(tmp_path):
    build(tmp_path / "made")
    return tmp_path / "made"


@pytest.fixture
def source(tmp_path):
    """An input without a manifest."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.txt").write_text("a")
    return tmp_path / "source"


# ── one directory, whole or not at all ───────────────────────────────────────────────────────────────────────────


def test_the_manifest_tells_recipe_inputs_files_and_facts(tmp_path, source):
    returned = build(tmp_path / "made", recipe={"sizes": (1, 2)}, inputs={"text": source})
    found = manifest.read(tmp_path / "made", "greeting")
    assert found == returned
    assert found.recipe == {"sizes": [1, 2]} and found.facts == {"words": 1}
    assert found.inputs["text"]["path"] == source.as_posix()
    assert list(found.files) == ["sub/hello.txt"] and found.files["sub/hello.txt"]["bytes"] == len("안녕".encode())
    assert not (tmp_path / "made.partial").exists()


@pytest.mark.parametrize("problem", [RuntimeError("bug"), InputError("bad line"), KeyboardInterrupt()], ids=lambda p: type(p).__name__)
def test_a_make_that_fails_half_way_leaves_nothing_under_the_final_name(tmp_path, problem):
    def make(partial):
        (partial / "half.bin").write_bytes(b"half")
        raise problem

    with pytest.raises(type(problem)):
        build(tmp_path / "made", make)
    assert not (tmp_path / "made").exists()


def test_unfinished_work_of_the_same_making_is_handed_back(tmp_path):
    def stops(partial):
        (partial / "half.bin").write_bytes(b"half")
        raise RuntimeError("killed")

    def goes_on(partial):
        assert (partial / "half.bin").read_bytes() == b"half"
        return hello(partial)

    with pytest.raises(RuntimeError):
        build(tmp_path / "made", stops)
    with pytest.raises(InputError, match="unfinished work"):
        manifest.read(tmp_path / "made")
    assert set(build(tmp_path / "made", goes_on).files) == {"half.bin", "sub/hello.txt"}


@pytest.mark.parametrize("other", [{"recipe": {"n": 2}}, {"kind": "farewell"}, {"module": "openko.rope"}], ids=lambda o: next(iter(o)))
def test_unfinished_work_of_another_making_is_cleared(tmp_path, other):
    def stops(partial):
        (partial / "half.bin").write_bytes(b"half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        build(tmp_path / "made", stops)
    assert set(build(tmp_path / "made", **other).files) == {"sub/hello.txt"}


def test_a_remaking_that_fails_leaves_the_old_directory_as_it_was(made):
    def stops(partial):
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        build(made, stops, recipe={"n": 2})
    assert manifest.verify(made).recipe == {"n": 1}


def test_work_of_hours_by_other_code_is_kept_or_refused_as_asked(tmp_path):
    def stops(partial):
        (partial / "half.bin").write_bytes(b"half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        build(tmp_path / "made", stops)
    other = {"module": "openko.rope"}
    with pytest.raises(InputError, match=r"made\.partial was made by another version of the code.*--keep.*--remake"):
        build(tmp_path / "made", other_code="refuse", **other)
    kept = build(tmp_path / "made", other_code="keep", **other)
    assert set(kept.files) == {"half.bin", "sub/hello.txt"}
    with pytest.raises(InputError, match=r"made was made by another version of the code"):
        build(tmp_path / "made", other_code="refuse")
    assert build(tmp_path / "made", not_again, other_code="keep") == kept
    assert set(build(tmp_path / "made", other_code="remake").files) == {"sub/hello.txt"}
    assert build(tmp_path / "made", other_code="keep", recipe={"n": 2}).recipe == {"n": 2}, "another recipe is always made"


def test_two_builders_at_once_are_refused(tmp_path):
    def make(partial):
        with pytest.raises(InputError, match="another process"):
            build(tmp_path / "made", not_again)
        return hello(partial)

    build(tmp_path / "made", make)
    manifest.verify(tmp_path / "made")


def test_files_that_were_read_back_by_their_maker_are_not_read_again(tmp_path, monkeypatch):
    plain, read, synced = manifest.file_hash, [], []
    monkeypatch.setattr(manifest, "file_hash", lambda path, *how: read.append(path.name) or plain(path, *how))
    monkeypatch.setattr(os, "fsync", synced.append)

    def make(partial):
        (partial / "large.bin").write_bytes(b"large")
        return manifest.Made(hello(partial), {"large.bin": xxhash.xxh3_128(b"large").hexdigest()})

    found = build(tmp_path / "made", make)
    assert read == ["hello.txt"] and found.facts == {"words": 1}
    assert len(synced) == 4  # both files, the manifest and the directory's own entries
    assert manifest.verify(tmp_path / "made") == found
    (tmp_path / "made" / "large.bin").write_bytes(b"Large")
    with pytest.raises(InputError, match=r"large\.bin has changed"):
        manifest.verify(tmp_path / "made")


# ── up to date, or made again ────────────────────────────────────────────────────────────────────────────────────


def test_asked_again_it_answers_at_once(made):
    said = []
    assert build(made, not_again, say=said.append) == manifest.read(made)
    assert said == [f"{made}: up to date"]


@pytest.mark.parametrize("other", [{"recipe": {"n": 2}}, {"kind": "farewell"}, {"module": "openko.rope"}], ids=lambda o: next(iter(o)))
def test_another_recipe_kind_or_code_makes_it_again(made, other):
    def make(partial):
        return hello(partial) | {"made": "again"}

    assert build(made, make, **other).facts["made"] == "again"
    assert manifest.read(made).facts["made"] == "again"


def test_of_an_input_only_the_content_matters(tmp_path, source):
    build(tmp_path / "made", inputs={"text": source})
    shutil.copytree(source, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    os.utime(tmp_path / "elsewhere" / "a.txt", (1, 1))
    build(tmp_path / "made", not_again, inputs={"text": tmp_path / "elsewhere"})

    (source / "a.txt").write_text("b")
    again = []
    build(tmp_path / "made", lambda partial: again.append(partial), inputs={"text": source})
    assert again


def test_an_input_with_a_manifest_counts_by_its_files_alone(tmp_path):
    """A corpus that was made twice by different recipes, with the same bytes, is the same input."""
    build(tmp_path / "one", recipe={"n": 1})
    build(tmp_path / "two", recipe={"n": 2})
    build(tmp_path / "made", inputs={"text": tmp_path / "one"})
    build(tmp_path / "made", not_again, inputs={"text": tmp_path / "two"})


def test_a_foreign_input_may_be_known_by_less_than_all_its_bytes(tmp_path, source, made):
    seen = []

    def identify(directory):
        seen.append(directory)
        return "the same"

    def again(make, inputs):
        return manifest.build(
            tmp_path / "other", kind="greeting", recipe={}, inputs=inputs, module="openko.errors", make=make, identify=identify, say=print
        )

    assert again(hello, {"text": source, "greeting": made}).inputs["text"]["content"] == "the same"
    assert seen == [source]  # the other input has a manifest, which says more
    (source / "a.txt").write_text("b")
    again(not_again, {"text": source, "greeting": made})


def test_a_missing_input_is_named(tmp_path):
    with pytest.raises(InputError, match=r"'text'.*nowhere"):
        build(tmp_path / "made", not_again, inputs={"text": tmp_path / "nowhere"})
    assert not (tmp_path / "made").exists()


# ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────────


def truncate(directory):
    (directory / "sub" / "hello.txt").write_bytes(b"x")


def lose(directory):
    (directory / "sub" / "hello.txt").unlink()


def scribble(directory):
    (directory / "manifest.json").write_text('{"kind": "gree')


def forget_fields(directory):
    (directory / "manifest.json").write_text('{"kind": "greeting"}')


def not_text(directory):
    (directory / "manifest.json").write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize(
    ("damage", "named"),
    [(truncate, "hello.txt has 1 bytes in place of 6"), (lose, "hello.txt is missing"), (scribble, "manifest.json cannot be read"),
     (forget_fields, "manifest.json cannot be read"), (not_text, "manifest.json cannot be read")],
)  # fmt: skip
def test_damage_is_refused_by_name_and_mended_by_making_it_again(made, damage, named):
    damage(made)
    with pytest.raises(InputError, match=named):
        manifest.read(made)
    said = []
    build(made, say=said.append)
    manifest.verify(made)
    assert said[0].startswith("making it again")


def test_a_missing_directory_names_the_notebook_that_makes_it(tmp_path):
    with pytest.raises(InputError, match=r"nowhere is missing.*notebook 02_corpus makes it"):
        manifest.read(tmp_path / "nowhere", made_by="notebook 02_corpus")


def test_another_kind_is_refused(made):
    with pytest.raises(InputError, match="'greeting', but token-shards or hf-model is needed"):
        manifest.read(made, "token-shards", "hf-model")


def test_verify_finds_a_changed_byte_where_sizes_agree(made):
    manifest.verify(made)
    (made / "sub" / "hello.txt").write_text("안영", encoding="utf-8")
    manifest.read(made)
    with pytest.raises(InputError, match=r"hello\.txt has changed"):
        manifest.verify(made)


def test_a_manifest_with_another_versions_hashes_is_named(made):
    told = json.loads((made / "manifest.json").read_text())
    told["files"]["sub/hello.txt"] = {"bytes": 6, "blake3": "00"}
    (made / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"manifest\.json gives sub/hello\.txt no hash that is known here .*another version"):
        manifest.verify(made)


# ── places where one cannot write ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM], ids=errno.errorcode.get)
def test_an_unwritable_place_is_named_and_nothing_is_left_under_the_final_name(tmp_path, number):
    def make(partial):
        raise OSError(number, os.strerror(number), str(partial / "big.bin"))

    with pytest.raises(InputError, match=r"made\.partial"):
        build(tmp_path / "made", make)
    assert not (tmp_path / "made").exists()


def test_another_fault_of_the_system_keeps_its_traceback(tmp_path):
    def make(partial):
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        build(tmp_path / "made", make)


def test_what_openko_did_not_make_is_never_deleted(tmp_path):
    """`--out ~/thesis` by mistake: a directory with files but without a manifest is somebody's own."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(InputError, match="thesis"):
        build(tmp_path / "thesis", not_again)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_an_empty_directory_may_become_the_result(tmp_path):
    (tmp_path / "made").mkdir()
    build(tmp_path / "made")
    manifest.verify(tmp_path / "made")


@pytest.mark.parametrize("place", ["notes.txt", "notes.txt/made"])
def test_a_file_in_the_way_is_named_before_any_work(tmp_path, place):
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(InputError, match=r"notes\.txt"):
        build(tmp_path / place, not_again)
    assert (tmp_path / "notes.txt").read_text() == "notes"


def test_a_result_may_not_replace_its_own_input(made):
    with pytest.raises(InputError, match="made"):
        build(made, recipe={"n": 2}, inputs={"text": made})
    assert manifest.verify(made).recipe == {"n": 1}


# ── fingerprints ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_digest_does_not_see_the_order_of_keys():
    assert manifest.digest({"a": 1, "b": "한"}) == manifest.digest({"b": "한", "a": 1}) != manifest.digest({"a": 1, "b": "글"})


A = '''"""Doc."""
from openko import b
from openko.d import FOUR


class A:
    """Doc."""


async def four():
    """Doc."""
    return FOUR


def five():
    """Doc."""
    from openko.sub import c

    return b.two() + c.three()  # sum
'''
B = """import openko.errors


def two():
    return 2
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in which nobody imports e."""
    root = tmp_path / "openko"
    (root / "sub").mkdir(parents=True)
    others = {
        "__init__": "",
        "sub/__init__": "",
        "sub/c": "def three():\n    return 3\n",
        "d": "FOUR = 4\n",
        "errors": "pass\n",
        "e": "FIVE = 5\n",
    }
    for name, code in {"a": A, "b": B, **others}.items():
        (root / f"{name}.py").write_text(code)
    monkeypatch.setattr(manifest, "PACKAGE", root)
    return root


def test_the_journal_names_what_was_made_and_what_was_up_to_date_but_not_what_failed(tmp_path, monkeypatch):
    def fails(partial):
        raise ValueError

    build(tmp_path / "before")
    monkeypatch.setenv(manifest.JOURNAL, str(tmp_path / "journal"))
    monkeypatch.chdir(tmp_path)
    build("made")
    build(tmp_path / "before", not_again)
    with pytest.raises(ValueError):
        build(tmp_path / "failed", fails)
    assert (tmp_path / "journal").read_text().splitlines() == [str((tmp_path / name).resolve()) for name in ("made", "before")]


@pytest.mark.parametrize(("old", "new"), [("  # sum", "  # total"), ('"""Doc."""', '"""Other words."""'), ("\n\n\nclass", "\n\n\n\nclass")])
def test_the_code_fingerprint_does_not_see_comments_docstrings_and_layout(package, old, new):
    before = manifest.code_fingerprint("openko.a")
    text = (package / "a.py").read_text()
    assert old in text
    (package / "a.py").write_text(text.replace(old, new))
    assert manifest.code_fingerprint("openko.a") == before


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [("a", "b.two() +", "b.two() -"), ("b", "return 2", "return 22"), ("sub/c", "return 3", "return 33"), ("d", "4", "44"),
     ("errors", "pass", "code = 1")],
)  # fmt: skip
def test_the_code_fingerprint_sees_the_code_of_a_module_and_of_all_it_imports(package, module, old, new):
    before = manifest.code_fingerprint("openko.a")
    path = package / f"{module}.py"
    path.write_text(path.read_text().replace(old, new))
    assert manifest.code_fingerprint("openko.a") != before


def test_the_code_fingerprint_does_not_see_what_is_not_imported(package):
    before = manifest.code_fingerprint("openko.a")
    (package / "e.py").write_text("FIVE = 55\n")
    assert manifest.code_fingerprint("openko.a") == before
    assert manifest.code_fingerprint("openko.a", "openko.e") != before


def test_the_imports_of_a_notebook_are_found_between_its_magics():
    source = "%matplotlib inline\n!ls\nimport json\nfrom openko import shards, notebook as nb\nfrom openko.errors import InputError"
    assert manifest.imports_of(source) == ["openko.errors", "openko.notebook", "openko.shards"]


def test_write_json_replaces_the_file_as_a_whole(tmp_path):
    path = tmp_path / "state.json"
    manifest.write_json(path, {"말": 1})
    manifest.write_json(path, {"말": 2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"말": 2}
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_refused_leaves_neither_lock_nor_folders(tmp_path):
    def refuse(partial):
        partial.joinpath(manifest.MARK).unlink()
        partial.rmdir()
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        manifest.build(tmp_path / "a" / "b", kind="k", recipe={}, inputs={}, module="openko.errors", make=refuse)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_holds_an_input_is_not_replaced(tmp_path):
    def make(partial):
        (partial / "x").write_text("x")

    out = tmp_path / "out"
    manifest.build(out, kind="k", recipe={}, inputs={}, module="openko.errors", make=make)
    manifest.build(out / "inner", kind="k", recipe={}, inputs={}, module="openko.errors", make=make)
    with pytest.raises(InputError, match="is or holds the input 'inner'"):
        manifest.build(out, kind="k", recipe={"n": 2}, inputs={"inner": out / "inner"}, module="openko.errors", make=make)
    assert (out / "inner" / "x").is_file()
