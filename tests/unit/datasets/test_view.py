import threading
from collections.abc import Callable

import pytest

from strongroom.base.errors import ConflictError, FormatError, RefusedError
from strongroom.crypto.random import random_id
from strongroom.datasets.identity import DatasetWrite, file_id_of, with_file_id
from strongroom.datasets.manifest import Manifest, build_manifest, open_manifest
from strongroom.datasets.view import DatasetView
from strongroom.wire.key_service import DatasetVersion
from strongroom.wire.manifest import FileEntry

OWN = "0f" * 16


@pytest.fixture
def base(make_write: Callable[[], DatasetWrite], countersign: Callable[..., DatasetVersion]) -> Manifest:
    write = make_write()
    files = [
        FileEntry(path=path, write_id=write.write_id, file_id=random_id(), length_bytes=10)
        for path in ("a/1.parquet", "a/2.parquet", "ab/3.parquet", "top.parquet")
    ]
    data, digest = build_manifest(dataset="trips", key_service="5e" * 32, base=None, write=write, files=files)
    return open_manifest(data, statement=countersign(data, digest), write_keys={write.write_id: write.key})


def paths(view: DatasetView, place: str = "") -> list[str]:
    return [file.path for file in view.list(place)]


def test_lists_the_base_version(base: Manifest) -> None:
    view = DatasetView(base, write_id=None)
    assert view.base is base
    assert paths(view) == ["a/1.parquet", "a/2.parquet", "ab/3.parquet", "top.parquet"]
    assert paths(view, "a") == ["a/1.parquet", "a/2.parquet"]
    assert paths(view, "top.parquet") == ["top.parquet"]
    assert paths(view, "top") == []
    assert view.find("a/1.parquet") == base.files[0]
    assert view.find("a") is None
    assert not view.changed


def test_a_committed_file_appears_with_its_identity() -> None:
    view = DatasetView(None, write_id=OWN)
    path, file_id = view.create("out/part-0.parquet")
    assert paths(view) == []
    view.commit({path: 77})
    file = view.find(path)
    assert file is not None
    assert (file.write_id, file.file_id, file.length_bytes) == (OWN, file_id, 77)
    assert view.changed
    assert view.next_files() == (file,)


def test_commits_files_that_executors_named() -> None:
    view = DatasetView(None, write_id=OWN)
    path = with_file_id("part-0.parquet", file_id=random_id())
    view.commit({path: 1})
    assert paths(view) == [path]


def test_each_attempt_gets_its_own_name() -> None:
    view = DatasetView(None, write_id=OWN)
    one, two = view.create("part-0.parquet"), view.create("part-0.parquet")
    assert one != two
    assert file_id_of(one[0]) == one[1]


def test_a_file_id_is_claimed_once() -> None:
    view = DatasetView(None, write_id=OWN)
    path, file_id = view.create("part-0.parquet")
    assert view.claim(path) == file_id
    with pytest.raises(RefusedError, match="given already"):
        view.claim(path)


def test_a_file_id_that_was_not_issued_here_cannot_be_claimed() -> None:
    view = DatasetView(None, write_id=OWN)
    path, file_id = view.create("part-0.parquet")
    for other in (path.replace(file_id, random_id()), f"x/{path}", "part-0.parquet"):
        with pytest.raises(RefusedError):
            view.claim(other)


def test_removed_files_are_gone_from_the_next_version(base: Manifest) -> None:
    view = DatasetView(base, write_id=OWN)
    assert view.remove("a") == 2
    assert view.remove("a") == 0
    assert paths(view) == ["ab/3.parquet", "top.parquet"]
    assert view.changed
    assert view.remove("") == 2
    assert view.next_files() == ()


def test_removing_nothing_changes_nothing(base: Manifest) -> None:
    view = DatasetView(base, write_id=OWN)
    assert view.remove("no/such/place") == 0
    assert not view.changed


def test_an_empty_result_is_a_result() -> None:
    view = DatasetView(None, write_id=OWN)
    view.commit({})
    assert view.changed
    assert view.next_files() == ()


def test_commits_all_or_none() -> None:
    view = DatasetView(None, write_id=OWN)
    old, new = view.create("a.parquet")[0], view.create("b.parquet")[0]
    view.commit({old: 1})
    with pytest.raises(ConflictError):
        view.commit({new: 1, old: 1})
    assert paths(view) == [old]
    view.commit({new: 1})


def test_refuses_to_commit_a_removed_file_again() -> None:
    view = DatasetView(None, write_id=OWN)
    path = view.create("a.parquet")[0]
    view.commit({path: 1})
    view.remove("")
    with pytest.raises(ConflictError):
        view.commit({path: 1})


def test_refuses_to_commit_a_file_without_identity() -> None:
    with pytest.raises(FormatError, match="carries no file id"):
        DatasetView(None, write_id=OWN).commit({"a.parquet": 1})


def test_refuses_to_commit_files_that_cannot_be_in_a_manifest() -> None:
    view = DatasetView(None, write_id=OWN)
    file_id = random_id()
    for lengths in (
        {with_file_id("a", file_id=file_id): 1, with_file_id("b", file_id=file_id): 1},
        {f"../{with_file_id('a', file_id=file_id)}": 1},
        {with_file_id("a", file_id=file_id): -1},
    ):
        with pytest.raises(FormatError):
            view.commit(lengths)
    assert not view.changed


def test_refuses_to_take_over_the_file_id_of_the_base(base: Manifest) -> None:
    view = DatasetView(base, write_id=OWN)
    with pytest.raises(ConflictError):
        view.commit({with_file_id("x.parquet", file_id=base.files[0].file_id): 1})


def test_a_read_only_view_refuses_every_change(base: Manifest) -> None:
    view = DatasetView(base, write_id=None)
    for change in (lambda: view.create("a"), lambda: view.remove(""), lambda: view.commit({})):
        with pytest.raises(RefusedError, match="reading only"):
            change()
    assert not view.changed


def test_many_threads_lose_nothing() -> None:
    view = DatasetView(None, write_id=OWN)

    def work(number: int) -> None:
        for part in range(50):
            path, _ = view.create(f"{number}/part-{part}.parquet")
            view.claim(path)
            view.commit({path: 1})
            view.list("")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(view.next_files()) == 400


# --- another version in between --------------------------------------------------------------------------------------


def newer(base: Manifest, *more: str) -> Manifest:
    """The version after `base`: another run added files to it."""
    write_id = "0e" * 16
    added = [FileEntry(path=path, write_id=write_id, file_id=random_id(), length_bytes=10) for path in more]
    header = base.header.model_copy(update={"number": base.header.number + 1, "previous": base.digest})
    return Manifest(header=header, digest="11" * 32, files=(*base.files, *added))


def test_what_a_run_added_goes_on_top_of_a_newer_version(base: Manifest) -> None:
    view = DatasetView(base, write_id=OWN)
    path = view.create("a/4.parquet")[0]
    view.commit({path: 4})
    between = newer(base, "a/5.parquet", "c/6.parquet")
    view.rebase(between)
    assert view.base is between
    assert paths(view) == sorted([path, *(file.path for file in between.files)])
    with pytest.raises(ConflictError):
        view.commit({with_file_id("x", file_id=between.files[-1].file_id): 1})


def test_a_run_that_took_back_files_of_its_own_only_adds_all_the_same(base: Manifest) -> None:
    view = DatasetView(base, write_id=OWN)
    kept, dropped = (view.create(f"a/{number}.parquet")[0] for number in (1, 2))
    view.commit({kept: 1, dropped: 2})
    assert view.remove(dropped) == 1
    view.rebase(newer(base))
    assert paths(view) == sorted([kept, *(file.path for file in base.files)])


@pytest.mark.parametrize("place", ["", "a", "top.parquet"])
def test_a_run_that_replaced_files_is_not_merged(base: Manifest, place: str) -> None:
    view = DatasetView(base, write_id=OWN)
    view.remove(place)
    view.commit({view.create("a/4.parquet")[0]: 4})
    before = view.next_files()
    with pytest.raises(ConflictError, match="did not only add"):
        view.rebase(newer(base, "c/6.parquet"))
    assert view.base is base
    assert view.next_files() == before


def test_two_runs_that_make_the_same_folder_are_not_merged(base: Manifest) -> None:
    view = DatasetView(base, write_id=OWN)
    view.commit({view.create("report/month=1/1.parquet")[0]: 4})
    with pytest.raises(ConflictError, match="did not only add"):
        view.rebase(newer(base, "report/month=2/9.parquet"))
    view.rebase(newer(base, "reports/1.parquet"))


def test_the_first_two_writers_of_a_dataset_are_not_merged(base: Manifest) -> None:
    view = DatasetView(None, write_id=OWN)
    view.commit({view.create("1.parquet")[0]: 4})
    with pytest.raises(ConflictError):
        view.rebase(base)
