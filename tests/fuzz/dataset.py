"""A dataset on storage whose one Parquet file can be replaced: what stands unencrypted in such files is anybody's."""

import functools
from pathlib import Path

import pyarrow as pa
from tests.fuzz.samples import new_folder

from strongroom.base.secret import SecretBytes
from strongroom.datasets.identity import DatasetWrite, storage_name
from strongroom.datasets.manifest import Manifest
from strongroom.datasets.parquet import encrypt_parquet, read_table
from strongroom.datasets.storage import Storage
from strongroom.wire.manifest import ManifestHeader

_WRITE = DatasetWrite(write_id="a5" * 16, key=SecretBytes(bytes(range(32))), wrapped="AAAA", base=None)


class FuzzedDataset:
    """A version with one file, whose length the manifest takes from what is there."""

    def __init__(self, folder: Path) -> None:
        self._location = folder.as_uri()
        table = pa.table({"id": [1, 2, 3], "name": ["a", None, "c"]})
        (self._entry,) = encrypt_parquet([table], location=self._location, dataset="trips", write=_WRITE)
        name = storage_name(write_id=_WRITE.write_id, path=self._entry.path)
        self._file = Storage(self._location).path(name)
        self.good = self._file.read_bytes()

    def read(self, data: bytes) -> pa.Table:
        """Read the dataset with these bytes in the place of its file."""
        self._file.write_bytes(data)
        header = ManifestHeader(
            dataset="trips",
            key_service="5a" * 32,
            number=1,
            previous=None,
            write_keys={_WRITE.write_id: _WRITE.wrapped},
            sealed_by=_WRITE.write_id,
        )
        files = (self._entry.model_copy(update={"length_bytes": len(data)}),)
        manifest = Manifest(header=header, digest="00" * 32, files=files)
        return read_table(manifest, location=self._location, write_keys={_WRITE.write_id: _WRITE.key})


@functools.cache
def DATASET() -> FuzzedDataset:  # noqa: N802 - one for the process
    return FuzzedDataset(new_folder())
