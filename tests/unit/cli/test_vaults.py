"""`strongroom vault`: what an owner does with a key in a vault, and how mistakes end."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from pyarrow import parquet as pq
from tests.support.vault_releases import VaultInstallation, vault_installation
from tests.unit.cli.test_submit import parse
from tests.unit.crypto.test_released_keys import pkcs8
from tests.unit.crypto.test_web_pki import ROOT
from tests.unit.keys.test_vault_hierarchy import RSA

from strongroom.base.encoding import to_b64url
from strongroom.base.errors import ConfigurationError, FormatError, IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.cli.main import strongroom
from strongroom.cli.owner_keys import make_owner_keys
from strongroom.cli.state import State
from strongroom.cli.vaults import describe_key, open_with_private_key, read_vault_file
from strongroom.crypto.keys import SigningKey, VerifyingKey
from strongroom.crypto.x509 import parse_pem_chain, to_pem
from strongroom.datasets.storage import Storage
from strongroom.datasets.vault_versions import newest_version
from strongroom.submit.vaults import vault_addresses
from strongroom.wire.vault_key import ManagedIdentity, VaultKey, WorkloadIdentity, parse_vault_key

PUBLIC = VerifyingKey(RSA.public_key()).to_jwk()
KID = "https://strongroom.vault.azure.net/keys/trips/" + "0a" * 16
SHOWN: dict[str, Any] = {
    "attributes": {"enabled": True, "exportable": True},
    "key": {"kid": KID, "kty": "RSA-HSM", "n": PUBLIC["n"] + "==", "e": "AQAB", "keyOps": ["wrapKey"], "d": None},
    "releasePolicy": {"immutable": False},
}


@pytest.fixture
def state(tmp_path: Path) -> State:
    made = State(root=tmp_path / "state")
    make_owner_keys(made)
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root.pem"
    path.write_text(to_pem(ROOT.der))
    return path


def run(state: State, *arguments: str) -> Result:
    return CliRunner().invoke(strongroom, ["vault", arguments[0], *arguments[1:], "--state", str(state.root)])


def described(state: State, root: Path, *options: str, shown: Any = SHOWN) -> Path:
    file = state.root.parent / "trips.vault"
    (state.root.parent / "shown.json").write_text(json.dumps(shown))
    result = run(state, "describe", str(file), str(state.root.parent / "shown.json"), "--root", str(root), *options)
    assert result.exit_code == 0, result.output
    return file


def test_describes_what_az_shows(state: State, root: Path) -> None:
    file = described(state, root)
    address = read_vault_file(file)
    key = parse_vault_key(address.statement)
    assert (key.kind, key.kid, key.public_jwk, key.check_value) == ("azure-key-vault", KID, PUBLIC, None)
    assert len(key.roots) == len(key.owners) == 1
    assert address.credential == ManagedIdentity()
    assert address.approvals == {}
    identity = ("--token-url", "https://login.example/t/oauth2/v2.0/token", "--client-id", "c", "--token-file", "/t")
    assert isinstance(read_vault_file(described(state, root, *identity)).credential, WorkloadIdentity)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--token-url", "https://login.example/t"), "workload identity has"),
        (("--owner", "nowhere.jwk"), "nowhere.jwk"),
    ],
)
def test_refuses_to_describe_with_half_of_what_is_needed(
    state: State, root: Path, options: tuple[str, ...], says: str
) -> None:
    described(state, root)
    result = run(*(state, "describe", "x.vault", str(state.root.parent / "shown.json"), "--root", str(root), *options))
    assert result.exit_code != 0
    assert says in result.output


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"key": {}},
        {"key": {**SHOWN["key"], "kid": "https://strongroom.vault.azure.net/keys/trips"}},
        {"key": {**SHOWN["key"], "kid": "https://strongroom.vault.azure.net/secrets/trips/" + "0a" * 16}},
        {"key": {**SHOWN["key"], "kty": "EC-HSM"}},
        {"key": {**SHOWN["key"], "n": None}},
        {"key": {**SHOWN["key"], "n": "!"}},
    ],
)
def test_refuses_what_shows_no_such_key(shown: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        describe(shown)


def describe(shown: dict[str, Any], **changed: Any) -> VaultKey:
    fields: dict[str, Any] = {
        "kind": None,
        "roots_der": [b"root"],
        "owners": ["55" * 32],
        "check_value": None,
        **changed,
    }
    return describe_key(json.dumps(shown).encode(), **fields)


def test_the_address_tells_what_keeps_the_key() -> None:
    for host, kind in (("a.managedhsm.azure.net", "azure-managed-hsm"), ("a.vault.azure.cn", "azure-key-vault")):
        shown = {"key": {**SHOWN["key"], "kid": KID.replace("strongroom.vault.azure.net", host)}}
        assert describe(shown).kind == kind
    elsewhere = {"key": {**SHOWN["key"], "kid": KID.replace("vault.azure.net", "example")}}
    with pytest.raises(ConfigurationError, match="Managed HSM"):
        describe(elsewhere)
    assert describe(elsewhere, kind="azure-managed-hsm").kind == "azure-managed-hsm"


def test_an_owner_encrypts_again_and_again_and_opens_with_an_own_copy(state: State, root: Path, tmp_path: Path) -> None:
    file = described(state, root)
    key = parse_vault_key(read_vault_file(file).statement)
    location = (tmp_path / "trips").as_uri()
    for number in (1, 2, 3):
        plain = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"n": list(range(number))}), plain)
        result = run(state, "encrypt", str(file), "trips", str(plain), "--to", location)
        assert result.exit_code == 0, result.output
        assert f"version {number}" in result.output
    for number in (1, 3):
        opened = open_with_private_key(key, pkcs8(RSA), name="trips", location=location, number=number)
        assert opened.statement.number == number
        assert len(opened.manifest.files) == 1
    assert open_with_private_key(key, pkcs8(RSA), name="trips", location=location, number=None).statement.number == 3
    pem = tmp_path / "own.pem"
    pem.touch(mode=0o600)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    pem.write_bytes(RSA.private_bytes(*form))
    result = run(
        *(state, "decrypt", str(file), "trips", "--private-key", str(pem)),
        *("--from", location, "--to", str(tmp_path / "out")),
    )
    assert result.exit_code == 0, result.output
    assert pq.read_table(tmp_path / "out").to_pydict() == {"n": [0, 1, 2]}
    pem.chmod(0o644)
    result = run(state, "decrypt", str(file), "trips", "--private-key", str(pem), "--from", location, "--to", "x")
    assert "may be read by others" in result.output
    with pytest.raises(FormatError):
        open_with_private_key(key, SecretBytes(b"x"), name="trips", location=location, number=1)
    other = key.model_copy(update={"public_jwk": SigningKey.generate("RS256").verifying_key.to_jwk()})
    with pytest.raises(IntegrityError):
        open_with_private_key(other, pkcs8(RSA), name="trips", location=location, number=1)


def test_refuses_to_encrypt_as_somebody_whom_the_statement_does_not_name(
    state: State, root: Path, tmp_path: Path
) -> None:
    file = described(state, root)
    plain = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"n": [1]}), plain)
    other = State(root=tmp_path / "other")
    make_owner_keys(other)
    result = run(other, "encrypt", str(file), "trips", str(plain), "--to", str(tmp_path / "trips"))
    assert result.exit_code != 0
    assert "other owners" in result.output
    assert not (tmp_path / "trips").exists()


def test_a_policy_needs_approvals_of_one_key(state: State, root: Path, tmp_path: Path) -> None:
    file = described(state, root)
    assert "no approval" in CliRunner().invoke(strongroom, ["vault", "policy", str(file)]).output
    second = tmp_path / "second.vault"
    address = read_vault_file(file)
    key = parse_vault_key(address.statement).model_copy(update={"key": "another"})
    second.write_bytes(address.model_copy(update={"statement": key.to_json().decode()}).to_json())
    result = CliRunner().invoke(strongroom, ["vault", "policy", str(file), str(second)])
    assert "different keys" in result.output


def test_submit_takes_a_vault_for_each_dataset(state: State, root: Path) -> None:
    file = described(state, root)
    request = parse("--dataset", "trips", "--output", "report", "--vault", f"trips={file}", "a.py")
    assert set(request.vaults) == {"trips"}
    assert set(request.outputs) == {"report"}
    both = parse("--dataset", "trips", "--output", "report", f"--vault=trips={file}", f"--vault=report={file}", "a.py")
    assert len(vault_addresses(both.vaults)) == 1
    for bad in ("trips", "trips=", f"Trips={file}", f"others={file}"):
        result = CliRunner().invoke(
            strongroom, ["submit", "--state", str(state.root), "--dataset", "trips", "--vault", bad, "a.py"]
        )
        assert result.exit_code == 2, result.output


def test_approvals_of_two_files_about_one_key_are_kept(state: State, root: Path) -> None:
    address = read_vault_file(described(state, root))
    first = address.model_copy(update={"approvals": {"trips": "a.b.c", "report": "x.y.z"}})
    second = address.model_copy(update={"approvals": {"report": "d.e.f"}})
    (made,) = vault_addresses({"trips": first, "report": second}).values()
    assert made.approvals == {"trips": "a.b.c", "report": "d.e.f"}


# --- symmetric keys, which the vault has to be asked about -------------------------------------------------------


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VaultInstallation]:
    with vault_installation(tmp_path_factory.mktemp("vault")) as made:
        yield made


def test_a_symmetric_key_is_described_and_imported_under_through_the_vault(
    services: VaultInstallation, state: State, tmp_path: Path
) -> None:
    known = services.create_key("symmetric", "oct-HSM")
    shown = {"key": {"kid": known.kid, "kty": known.kty}}
    paths = {name: tmp_path / name for name in ("root.pem", "relay.pem", "token", "plain.parquet")}
    paths["root.pem"].write_text(services.keys.certificate_pem)
    paths["relay.pem"].write_text(services.relay.authority_pem)
    paths["token"].write_text(services.person_token() + "\n")
    options = ("--kind", "azure-managed-hsm", "--authorities", str(paths["relay.pem"]))
    file = described(state, paths["root.pem"], *options, "--token", str(paths["token"]), shown=shown)
    key = parse_vault_key(read_vault_file(file).statement)
    assert key.check_value == known.check_value
    assert len(key.roots) == len(parse_pem_chain(services.keys.certificate_pem.encode()))
    pq.write_table(pa.table({"n": [1]}), paths["plain.parquet"])
    arguments = ("encrypt", str(file), "trips", str(paths["plain.parquet"]), "--to", str(tmp_path / "trips"))
    without = run(state, *arguments)
    assert "--token FILE" in without.output
    assert newest_version(Storage((tmp_path / "trips").as_uri())) is None
    result = run(state, *arguments, "--token", str(paths["token"]))
    assert result.exit_code == 0, result.output
    paths["token"].write_text(to_b64url(b"not a token"))
    assert "does not accept" in run(state, *arguments, "--token", str(paths["token"])).output
