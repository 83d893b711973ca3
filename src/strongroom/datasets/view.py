"""What one run sees of a dataset: the base version, less what it removed, plus what it committed."""

import threading
from collections.abc import Mapping
from typing import Final

from strongroom.base.errors import ConflictError, FormatError, RefusedError
from strongroom.base.workflow import Step
from strongroom.crypto.random import random_id
from strongroom.datasets.identity import file_id_of, is_at_or_below, with_file_id
from strongroom.datasets.manifest import Manifest
from strongroom.wire.manifest import FileEntry


class DatasetView:
    """A run's view of one dataset; safe to use from several threads. It touches no storage.

    Args:
        base: The version the run is bound to; None where there is none yet.
        write_id: The run's own write; None where it may only read.
    """

    def __init__(self, base: Manifest | None, *, write_id: str | None) -> None:
        self._base = base
        self._write_id: Final = write_id
        self._lock: Final = threading.Lock()
        self._files = {file.path: file for file in base.files} if base else {}
        self._file_ids = {file.file_id for file in self._files.values()}
        self._issued: dict[str, str] = {}
        self._changed = False
        self._has_removed = False

    @property
    def base(self) -> Manifest | None:
        """The version the run is bound to."""
        with self._lock:
            return self._base

    @property
    def changed(self) -> bool:
        """Whether the run removed or committed anything, so that there is a next version."""
        with self._lock:
            return self._changed

    def list(self, path: str) -> tuple[FileEntry, ...]:
        """Return every file at or below a place, in the order of their paths."""
        with self._lock:
            found = [file for file in self._files.values() if is_at_or_below(file.path, path)]
        return tuple(sorted(found, key=lambda file: file.path))

    def find(self, path: str) -> FileEntry | None:
        """Return the file with this path, or None."""
        with self._lock:
            return self._files.get(path)

    def create(self, path: str) -> tuple[str, str]:
        """Name a new file.

        Args:
            path: What the engine would call it.

        Returns:
            The path it gets, which carries its file id; and the file id.

        Raises:
            FormatError: Not a path.
            RefusedError: The run may not write this dataset.
        """
        self._own_write()
        file_id = random_id()
        new_path = with_file_id(path, file_id=file_id)
        with self._lock:
            self._issued[new_path] = file_id
        return new_path, file_id

    def claim(self, path: str) -> str:
        """Return the file id of a path that `create` gave, once: its key encrypts one file.

        Raises:
            RefusedError: It was not created here, or was claimed already.
        """
        with self._lock:
            file_id = self._issued.pop(path, None)
        if file_id is None:
            raise RefusedError(
                "the file was not created here, or its key was given already",
                action="write protected datasets with DataFrame.write.parquet",
                step=Step.WRITE,
            )
        return file_id

    def remove(self, path: str) -> int:
        """Take every file at or below a place out of the view; return how many.

        Raises:
            RefusedError: The run may not write this dataset.
        """
        write_id = self._own_write()
        with self._lock:
            removed = [name for name in self._files if is_at_or_below(name, path)]
            self._has_removed |= any(self._files[name].write_id != write_id for name in removed)
            for name in removed:
                del self._files[name]
            self._changed = self._changed or bool(removed)
        return len(removed)

    def commit(self, lengths: Mapping[str, int]) -> None:
        """Add finished files, all or none.

        Args:
            lengths: Length in bytes of each, by the path that `create` gave (here or in an executor's TEE).

        Raises:
            FormatError: A path carries no file id, or two carry the same.
            ConflictError: A file was committed before.
            RefusedError: The run may not write this dataset.
        """
        write_id = self._own_write()
        entries = [_entry(path, length, write_id=write_id) for path, length in lengths.items()]
        new_ids = {entry.file_id for entry in entries}
        if len(new_ids) != len(entries):
            raise FormatError("two files carry the same file id", step=Step.WRITE)
        with self._lock:
            if new_ids & self._file_ids:
                raise ConflictError("a file was committed before", action="write each result once", step=Step.WRITE)
            self._file_ids |= new_ids
            self._files |= {entry.path: entry for entry in entries}
            self._changed = True

    def rebase(self, base: Manifest) -> None:
        """Put what this run added on top of a newer version than the one it began with.

        Only additions are merged: a run that removed files, or made a folder that another run made as well, would have
        seen another dataset and done something else.

        Args:
            base: The newer version.

        Raises:
            ConflictError: It cannot be merged; the view stays as it is.
        """
        with self._lock:
            if self._has_removed:
                raise _conflict(base)
            before = self._base.files if self._base else ()
            own = [file for file in self._files.values() if file.write_id == self._write_id]
            for place in {_place(file.path) for file in own}:
                was_there = any(is_at_or_below(file.path, place) for file in before)
                is_there = any(is_at_or_below(file.path, place) for file in base.files)
                if is_there and not was_there:
                    raise _conflict(base)
            self._base = base
            self._files = {file.path: file for file in (*base.files, *own)}
            self._file_ids |= {file.file_id for file in base.files}

    def next_files(self) -> tuple[FileEntry, ...]:
        """Return the files of the dataset's next version, in the order of their paths."""
        return self.list("")

    def _own_write(self) -> str:
        if self._write_id is None:
            raise RefusedError(
                "the dataset is bound for reading only",
                action="bind it with write access, and let its owner approve that",
                step=Step.WRITE,
            )
        return self._write_id


def _place(path: str) -> str:
    """Return what an application named when it wrote a file: its folder, less those that `partitionBy` makes."""
    folders = path.split("/")[:-1]
    while folders and "=" in folders[-1]:
        folders.pop()
    return "/".join(folders)


def _conflict(base: Manifest) -> ConflictError:
    made = f"another run made version {base.header.number} of dataset {base.header.dataset}"
    return ConflictError(
        f"{made}, and this run did not only add to it",
        action="submit again: the run then begins with the newest version",
        step=Step.WRITE,
    )


def _entry(path: str, length_bytes: int, *, write_id: str) -> FileEntry:
    file_id = file_id_of(path)
    if file_id is None:
        raise FormatError("the path of a committed file carries no file id", step=Step.WRITE)
    return FileEntry.from_object(
        {"path": path, "write_id": write_id, "file_id": file_id, "length_bytes": length_bytes, "rows": None}
    )
