"""Versions on storage alone: who may sign them, and that each number is given once."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.unit.keys.test_vault_hierarchy import statement

from strongroom.base.errors import ConflictError, FormatError, IntegrityError, NotFoundError, VerificationError
from strongroom.base.workflow import Step
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey
from strongroom.datasets.storage import Storage
from strongroom.datasets.vault_versions import (
    newest_version,
    next_version,
    publish_version,
    read_version,
    sign_version,
    verify_version,
)
from strongroom.wire.key_service import VERSION_TYP, DatasetVersion

OWNER, RUN, OTHER = (SigningKey.generate(algorithm) for algorithm in ("ES256", "Ed25519", "ES256"))
KEY = statement(owners=(OWNER.verifying_key.thumbprint,))
WRITER = f"owner:{OWNER.verifying_key.thumbprint}"


def version(base: DatasetVersion | None = None, **changed: Any) -> DatasetVersion:
    fields: dict[str, Any] = {
        "manifest_digest": "aa" * 32,
        "write_ids": ("bb" * 16,),
        "writer": WRITER,
        "created_at": datetime(2026, 3, 1, tzinfo=UTC),
    }
    made = next_version(key=KEY, dataset="trips", base=base, **fields)
    return made.model_copy(update=changed)


def verify(text: str, **changed: Any) -> DatasetVersion:
    fields: dict[str, Any] = {"key": KEY, "run_key": RUN.verifying_key, "dataset": "trips", **changed}
    return verify_version(text, **fields)


def test_versions_follow_each_other() -> None:
    first = version()
    second = version(first, manifest_digest="cc" * 32)
    assert (first.number, first.previous) == (1, None)
    assert (second.number, second.previous) == (2, first.manifest_digest)


def test_owners_and_runs_with_the_vaults_key_sign_versions() -> None:
    assert verify(sign_version(version(), key=OWNER), number=1) == version()
    of_run = version(writer="run:" + "11" * 32)
    assert verify(sign_version(of_run, key=RUN)) == of_run


def test_refuses_other_signers_and_signers_in_others_names() -> None:
    of_run = version(writer="run:" + "11" * 32)
    for text in (
        sign_version(version(), key=OTHER),
        sign_version(of_run, key=OTHER),
        sign_version(of_run, key=OWNER),
        sign_version(version(), key=RUN),
        sign_version(version(writer=f"owner:{OTHER.verifying_key.thumbprint}"), key=OWNER),
    ):
        with pytest.raises(VerificationError) as error:
            verify(text)
        assert error.value.step == Step.DECRYPT
    with pytest.raises(VerificationError):
        verify(sign_version(of_run, key=RUN), run_key=None)


@pytest.mark.parametrize("changed", [{"dataset": "report"}, {"key_service": "ab" * 32}, {"number": 2}])
def test_refuses_versions_of_something_else(changed: dict[str, Any]) -> None:
    with pytest.raises(VerificationError):
        verify(sign_version(version(**changed), key=OWNER), number=1)


def test_refuses_what_is_no_statement() -> None:
    header = {"jwk": OWNER.verifying_key.to_jwk()}
    for text in ("", "a.b.c", sign_jws(version().to_json(), key=OWNER, header={"typ": VERSION_TYP})):
        with pytest.raises(FormatError):
            verify(text)
    with pytest.raises((FormatError, VerificationError)):
        verify(sign_jws(version().to_json(), key=OWNER, header={**header, "typ": "another"}))


def test_each_number_is_given_once(tmp_path: Path) -> None:
    storage = Storage((tmp_path / "trips").as_uri())
    assert newest_version(storage) is None
    publish_version(storage, 1, "one")
    publish_version(storage, 2, "two")
    with pytest.raises(ConflictError) as error:
        publish_version(storage, 2, "another")
    assert error.value.step == Step.WRITE
    assert (newest_version(storage), read_version(storage, 2)) == (2, "two")
    assert [
        path.name for path in (tmp_path / "trips" / "_strongroom" / "versions").iterdir() if path.name[0] == "."
    ] == []


def test_what_is_no_versions_name_does_not_count(tmp_path: Path) -> None:
    storage = Storage(tmp_path.as_uri())
    publish_version(storage, 9, "nine")
    folder = tmp_path / "_strongroom" / "versions"
    for name in ("10.jws.partial", "011.jws", "x.jws", "0.jws", "-1.jws", "9999999999.jws"):
        (folder / name).write_text("no")
    assert newest_version(storage) == 9


def test_missing_and_broken_statements_are_errors(tmp_path: Path) -> None:
    storage = Storage(tmp_path.as_uri())
    with pytest.raises(NotFoundError):
        read_version(storage, 1)
    publish_version(storage, 1, "one")
    path = tmp_path / "_strongroom" / "versions" / "1.jws"
    path.chmod(0o600)
    path.write_bytes(b"\xff")
    with pytest.raises(IntegrityError):
        read_version(storage, 1)
    path.write_bytes(b"x" * ((256 << 10) + 1))
    with pytest.raises(IntegrityError):
        read_version(storage, 1)
