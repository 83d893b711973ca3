from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strongroom.base.encoding import to_b64url
from strongroom.crypto.random import random_bytes, random_id, random_secret
from strongroom.datasets.identity import DatasetWrite
from strongroom.datasets.manifest import parse_header
from strongroom.wire.key_service import DatasetVersion

KEY_SERVICE = "5e" * 32


@pytest.fixture
def make_write() -> Callable[[], DatasetWrite]:
    """Makes what the key service makes for a run or an import."""

    def make(base: int | None = None) -> DatasetWrite:
        wrapped = to_b64url(random_bytes(78))
        return DatasetWrite(write_id=random_id(), key=random_secret(), wrapped=wrapped, base=base)

    return make


@pytest.fixture
def countersign() -> Callable[..., DatasetVersion]:
    """Makes the key service's statement on a manifest; fields can be given to make a wrong one."""

    def statement(data: bytes, digest: str, **changed: Any) -> DatasetVersion:
        header = parse_header(data)
        fields = {
            "version": 1,
            "key_service": header.key_service,
            "dataset": header.dataset,
            "number": header.number,
            "previous": header.previous,
            "manifest_digest": digest,
            "write_ids": sorted(header.write_keys),
            "writer": "owner",
            "created_at": "2026-11-23T12:00:00Z",
        }
        return DatasetVersion.from_object({**fields, **changed})

    return statement


@pytest.fixture
def location(tmp_path: Path) -> str:
    """An empty place for a dataset, with a name that a URI must escape."""
    return (tmp_path / "some storage%").as_uri()
