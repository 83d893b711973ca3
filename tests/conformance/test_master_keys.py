"""One suite for everything that holds a master key: an owner-only file, an HSM, a transit engine, a key vault."""

import hashlib
import logging
import socket
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.openbao import OpenBao, openbao
from tests.support.service_processes import Installation, installation
from tests.support.softhsm import SoftHsm, softhsm

from strongroom.base.errors import ConfigurationError, IntegrityError, StrongroomError, UnavailableError
from strongroom.base.secret import SecretBytes
from strongroom.cli.installation import free_port
from strongroom.crypto import aead
from strongroom.crypto.random import random_bytes, random_id
from strongroom.keys.providers import MasterKey, envelope, open_master_key
from strongroom.keys.providers.azure_credentials import credential_of
from strongroom.keys.providers.envelope import WrapAlgorithm
from strongroom.keys.providers.local import LocalMasterKey
from strongroom.keys.providers.uri import parse_service_address

VAULT_HOST = "vault.localhost"
CONTEXT = b"strongroom test 1\0what it is for"
KEY = SecretBytes(random_bytes(32))
CHANGED_BYTES = 60
"""At most so many bytes of a wrapped key are changed, one after the other: some holders take long for each."""


@dataclass(kw_only=True)
class Holder:
    """Something that holds master keys.

    Attributes:
        uri: A key that is not there yet; each test has its own.
        other: Another one, not there yet either.
        algorithm: What its wrapped keys are marked with.
        secret: The file that lets a service use it: the key itself, the PIN or the token.
        wrong_secret: What could stand there instead, and fits nothing.
        nowhere: An address at which nobody answers.
        plaintext_in_address: Addresses with a secret in them.
    """

    uri: str
    other: str
    algorithm: WrapAlgorithm
    secret: Path
    wrong_secret: bytes
    nowhere: str
    plaintext_in_address: tuple[str, ...]


Opener = Callable[..., MasterKey]


@pytest.fixture(scope="module")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    with softhsm(tmp_path_factory.mktemp("softhsm")) as made:
        yield made


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with openbao(tmp_path_factory.mktemp("openbao")) as made:
        yield made


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Our own key service under a name that Azure's SDK accepts: below the resource of its challenge."""
    known = socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        # The C library resolves no names below "localhost".
        patch.setattr(
            socket,
            "getaddrinfo",
            lambda host, *rest, **more: known("127.0.0.1" if host == VAULT_HOST else host, *rest, **more),
        )
        with installation(tmp_path_factory.mktemp("vault"), host=VAULT_HOST) as made:
            yield made


def secret_file(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content)
    path.chmod(0o600)
    return path


def file_holder(folder: Path, _request: pytest.FixtureRequest) -> Holder:
    return Holder(
        uri=f"file://{folder}/mek",
        other=f"file://{folder}/other",
        algorithm=WrapAlgorithm.FILE_A256GCM,
        secret=folder / "mek",
        wrong_secret=bytes(32),
        nowhere=f"file://{folder}/nowhere/mek",
        plaintext_in_address=(f"file://{folder}/mek?key=00",),
    )


def pkcs11_holder(folder: Path, request: pytest.FixtureRequest) -> Holder:
    hsm: SoftHsm = request.getfixturevalue("hsm")
    pin = secret_file(folder, "pin", hsm.pin_file.read_text())
    uri = hsm.uri(f"key-{random_id()}", pin_file=pin)
    return Holder(
        uri=uri,
        other=hsm.uri(f"key-{random_id()}", pin_file=pin),
        algorithm=WrapAlgorithm.PKCS11_A256GCM,
        secret=pin,
        wrong_secret=b"wrong-pin-1",
        nowhere=uri.replace(str(hsm.module), str(folder / "no-module.so")),
        plaintext_in_address=(f"{uri}&pin-value=1234", uri.replace("pin-source", "pin-value")),
    )


def transit_holder(folder: Path, request: pytest.FixtureRequest) -> Holder:
    bao: OpenBao = request.getfixturevalue("bao")
    token = secret_file(folder, "token", bao.token)
    uri = bao.uri(f"key-{random_id()}", token_file=token)
    return Holder(
        uri=uri,
        other=bao.uri(f"key-{random_id()}", token_file=token),
        algorithm=WrapAlgorithm.TRANSIT_A256GCM,
        secret=token,
        wrong_secret=b"s.AAAAAAAAAAAAAAAAAAAAAAAA",
        nowhere=uri.replace(bao.address, f"127.0.0.1:{free_port()}"),
        plaintext_in_address=(f"{uri}&token=abc", uri.replace("vault://", "vault://user:password@")),
    )


def vault_holder(folder: Path, request: pytest.FixtureRequest, *, kty: str, algorithm: WrapAlgorithm) -> Holder:
    made: Installation = request.getfixturevalue("vault")
    token = secret_file(folder, "token", made.person_token())
    ca = secret_file(folder, "ca.pem", made.keys.certificate_pem)
    pin = hashlib.sha256(ca.read_bytes()).hexdigest()

    def uri(base: str) -> str:
        options = f"credential=token-file&token-source={token}&kty={kty}&ca={ca}&ca-sha256={pin}"
        return f"{base}/keys/key-{random_id()}?{options}"

    first = uri(made.keys.url)
    return Holder(
        uri=first,
        other=uri(made.keys.url),
        algorithm=algorithm,
        secret=token,
        wrong_secret=b"e30.e30.AAAA",
        nowhere=uri(f"https://127.0.0.1:{free_port()}"),
        plaintext_in_address=(f"{first}&token=abc", first.replace("https://", "https://user:password@")),
    )


def rsa_holder(folder: Path, request: pytest.FixtureRequest) -> Holder:
    return vault_holder(folder, request, kty="RSA", algorithm=WrapAlgorithm.VAULT_RSA_OAEP_A256GCM_PS256)


def oct_holder(folder: Path, request: pytest.FixtureRequest) -> Holder:
    return vault_holder(folder, request, kty="oct-HSM", algorithm=WrapAlgorithm.VAULT_A256GCM)


HOLDERS = [
    pytest.param(file_holder, id="file"),
    pytest.param(pkcs11_holder, id="pkcs11", marks=pytest.mark.needs_softhsm),
    pytest.param(transit_holder, id="vault"),
    pytest.param(rsa_holder, id="https-rsa"),
    pytest.param(oct_holder, id="https-oct"),
]


@pytest.fixture(params=HOLDERS)
def holder(request: pytest.FixtureRequest, tmp_path: Path) -> Holder:
    make: Callable[[Path, pytest.FixtureRequest], Holder] = request.param
    return make(tmp_path, request)


@pytest.fixture
def opened() -> Iterator[Opener]:
    """Opens master keys. One at a time, as a process has one: the last one is closed first."""
    keys: list[MasterKey] = []

    def close() -> None:
        while keys:
            keys.pop().close()

    def open_one(uri: str, *, create: bool = False) -> MasterKey:
        close()
        keys.append(open_master_key(uri, create=create))
        return keys[-1]

    yield open_one
    close()


def opens(key: MasterKey, wrapped: bytes, *, context: bytes = CONTEXT) -> bool:
    """Say whether a wrapped key opens; anything but the one error is a failure of the test."""
    try:
        key.unwrap(wrapped, context=context)
    except IntegrityError:
        return False
    return True


@pytest.mark.parametrize("size_bytes", [1, 32, 2500])
def test_gives_back_what_it_wrapped_after_a_restart_too(holder: Holder, opened: Opener, size_bytes: int) -> None:
    key = SecretBytes(random_bytes(size_bytes))
    first = opened(holder.uri, create=True)
    wrapped = first.wrap(key, context=CONTEXT)
    assert first.unwrap(wrapped, context=CONTEXT) == key
    assert opened(holder.uri).unwrap(wrapped, context=CONTEXT) == key
    assert opened(holder.uri, create=True).unwrap(wrapped, context=CONTEXT) == key, "a key that is there is kept"


def test_two_wraps_of_one_key_differ_and_show_nothing_of_it(holder: Holder, opened: Opener) -> None:
    key = opened(holder.uri, create=True)
    first, second = (key.wrap(KEY, context=CONTEXT) for _ in range(2))
    assert first != second
    assert KEY.reveal() not in first
    assert first[2:14] != second[2:14] or first[14:40] != second[14:40]


def test_a_wrapped_key_starts_with_version_and_algorithm_and_both_count(holder: Holder, opened: Opener) -> None:
    key = opened(holder.uri, create=True)
    wrapped = key.wrap(KEY, context=CONTEXT)
    assert wrapped[:2] == bytes((2, holder.algorithm))
    assert not opens(key, bytes((3,)) + wrapped[1:])
    for other in WrapAlgorithm:
        if other is not holder.algorithm:
            assert not opens(key, envelope.write(other, wrapped[2:]))


def test_opens_for_nothing_else_than_it_was_wrapped_for(holder: Holder, opened: Opener) -> None:
    key = opened(holder.uri, create=True)
    wrapped = key.wrap(KEY, context=CONTEXT)
    for context in (b"", CONTEXT[:-1], CONTEXT + b"\0", b"another"):
        assert not opens(key, wrapped, context=context)
    assert opens(key, wrapped)


def test_another_master_key_does_not_open_it(holder: Holder, opened: Opener) -> None:
    wrapped = opened(holder.uri, create=True).wrap(KEY, context=CONTEXT)
    assert not opens(opened(holder.other, create=True), wrapped)


def test_any_changed_byte_shows(holder: Holder, opened: Opener) -> None:
    key = opened(holder.uri, create=True)
    wrapped = key.wrap(KEY, context=CONTEXT)
    step = max(1, len(wrapped) // CHANGED_BYTES)
    for position in {*range(0, len(wrapped), step), *range(40), len(wrapped) - 1}:
        changed = bytearray(wrapped)
        changed[position] ^= 0x40
        assert not opens(key, bytes(changed)), position
    assert opens(key, wrapped)


def test_anything_shorter_or_longer_shows(holder: Holder, opened: Opener) -> None:
    key = opened(holder.uri, create=True)
    wrapped = key.wrap(KEY, context=CONTEXT)
    shorter = [wrapped[:length] for length in (0, 1, 2, 3, 17, 30, len(wrapped) // 2, len(wrapped) - 1)]
    for changed in (*shorter, wrapped + b"\0", wrapped[1:], wrapped * 2, bytes(20_000)):
        assert not opens(key, changed)


def test_a_key_that_is_missing_is_said_and_not_made(holder: Holder, opened: Opener) -> None:
    for _ in range(2):
        with pytest.raises(ConfigurationError) as missing:
            opened(holder.uri)
        assert missing.value.action


def test_a_secret_that_others_may_read_is_refused(holder: Holder, opened: Opener) -> None:
    opened(holder.uri, create=True)
    for mode in (0o640, 0o604, 0o660):
        holder.secret.chmod(mode)
        with pytest.raises(ConfigurationError, match="alone") as refused:
            opened(holder.uri)
        assert "chmod 600" in refused.value.action
    holder.secret.unlink()
    with pytest.raises(ConfigurationError):
        opened(holder.uri)


def test_a_wrong_secret_is_refused_and_shown_to_nobody(
    holder: Holder, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrapped = opened(holder.uri, create=True).wrap(KEY, context=CONTEXT)
    right = holder.secret.read_bytes()
    holder.secret.write_bytes(holder.wrong_secret)
    with pytest.raises((ConfigurationError, IntegrityError)) as refused:
        opened(holder.uri).unwrap(wrapped, context=CONTEXT)
    assert refused.value.action
    told = "".join(traceback.format_exception(refused.value)) + refused.value.action + caplog.text
    for secret in (right.strip(), holder.wrong_secret, KEY.reveal()):
        for form in (secret.decode("latin-1"), repr(secret), secret.hex()):
            assert form not in told
    holder.secret.write_bytes(right)
    assert opened(holder.uri).unwrap(wrapped, context=CONTEXT) == KEY


def test_never_shows_a_key_or_a_secret(holder: Holder, opened: Opener, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = opened(holder.uri, create=True)
    wrapped = key.wrap(KEY, context=CONTEXT)
    key.unwrap(wrapped, context=CONTEXT)
    shown = f"{key!r} {key} {caplog.text}"
    for secret in (holder.secret.read_bytes().strip(), KEY.reveal()):
        for form in (secret.decode("latin-1"), repr(secret), secret.hex()):
            assert form not in shown


def test_a_holder_that_is_not_there_is_said_with_what_to_do(holder: Holder, opened: Opener) -> None:
    with pytest.raises((ConfigurationError, UnavailableError)) as gone:
        opened(holder.nowhere)
    assert gone.value.action
    assert "Traceback" not in gone.value.message


def test_addresses_with_a_secret_or_an_unknown_part_are_refused(holder: Holder, opened: Opener) -> None:
    unknown = f"{holder.uri}{'&' if '?' in holder.uri else '?'}unknown=1"
    for address in (*holder.plaintext_in_address, unknown, f"{holder.uri}#fragment"):
        with pytest.raises(ConfigurationError) as refused:
            opened(address, create=True)
        assert isinstance(refused.value, StrongroomError)
        assert "password" not in refused.value.message


# --- what only some of them can be asked -----------------------------------------------------------------------------


@pytest.mark.needs_softhsm
def test_a_token_that_was_taken_away_is_said_and_used_again_when_it_is_back(
    hsm: SoftHsm, opened: Opener, tmp_path: Path
) -> None:
    import pkcs11  # noqa: PLC0415 - an extra

    key = opened(hsm.uri(f"key-{random_id()}"), create=True)
    wrapped = key.wrap(KEY, context=CONTEXT)
    away = tmp_path / "away"
    hsm.tokens.rename(away)
    hsm.tokens.mkdir()
    try:
        pkcs11.lib(str(hsm.module)).reinitialize()  # every session of this process ends
        with pytest.raises((ConfigurationError, UnavailableError)) as gone:
            key.unwrap(wrapped, context=CONTEXT)
        assert gone.value.action
    finally:
        hsm.tokens.rmdir()
        away.rename(hsm.tokens)
        pkcs11.lib(str(hsm.module)).reinitialize()
    assert key.unwrap(wrapped, context=CONTEXT) == KEY


@pytest.mark.needs_softhsm
def test_two_keys_of_one_token_are_used_side_by_side(hsm: SoftHsm) -> None:
    """As when one replaces the other; closing one logs the process out, and the other logs in again."""
    first, second = (open_master_key(hsm.uri(f"key-{random_id()}"), create=True) for _ in range(2))
    by_first, by_second = (key.wrap(KEY, context=CONTEXT) for key in (first, second))
    assert opens(first, by_first)
    assert not opens(first, by_second)
    first.close()
    try:
        assert opens(second, by_second)
    finally:
        second.close()


@pytest.mark.needs_softhsm
@pytest.mark.parametrize("wrong", ["EXTRACTABLE", "SENSITIVE", "length"])
def test_refuses_a_key_that_could_leave_its_token(hsm: SoftHsm, opened: Opener, wrong: str) -> None:
    import pkcs11  # noqa: PLC0415 - an extra

    label = f"key-{random_id()}"
    good = {"SENSITIVE": True, "EXTRACTABLE": False, "PRIVATE": True}
    changed = good | ({wrong: wrong == "EXTRACTABLE"} if wrong in good else {})
    token = pkcs11.lib(str(hsm.module)).get_token(token_label="strongroom")
    with token.open(rw=True, user_pin=hsm.pin_file.read_text().strip()) as session:
        session.generate_key(
            pkcs11.KeyType.AES,
            128 if wrong == "length" else 256,
            label=label,
            store=True,
            template={getattr(pkcs11.Attribute, name): value for name, value in changed.items()},
        )
    for create in (False, True):
        with pytest.raises(ConfigurationError, match=f"does not serve.*{wrong.lower()}"):
            opened(hsm.uri(label), create=create)


@pytest.mark.needs_softhsm
def test_a_module_that_the_address_pins_is_loaded_as_it_was_checked(
    hsm: SoftHsm, opened: Opener, tmp_path: Path
) -> None:
    """An exchanged module would be code of somebody's choice in the key service's own process."""
    module = tmp_path / "module.so"
    module.write_bytes(hsm.module.read_bytes())
    digest = hashlib.sha256(module.read_bytes()).hexdigest()
    uri = hsm.uri(f"key-{random_id()}").replace(str(hsm.module), f"{module}&module-sha256={digest}")
    wrapped = opened(uri, create=True).wrap(KEY, context=CONTEXT)
    assert opens(opened(uri), wrapped)
    module.write_bytes(module.read_bytes() + b"\0")
    with pytest.raises(ConfigurationError, match="not the one that the master key's address pins"):
        opened(uri)
    module.unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        opened(uri)


@pytest.mark.needs_softhsm
def test_the_key_in_the_token_cannot_be_read(hsm: SoftHsm, opened: Opener) -> None:
    import pkcs11  # noqa: PLC0415 - an extra

    label = f"key-{random_id()}"
    opened(hsm.uri(label), create=True).close()
    token = pkcs11.lib(str(hsm.module)).get_token(token_label="strongroom")
    with token.open(user_pin=hsm.pin_file.read_text().strip()) as session:
        key = session.get_key(label=label)
        with pytest.raises(pkcs11.exceptions.AttributeSensitive):
            key[pkcs11.Attribute.VALUE]


def test_a_sealed_vault_is_said_and_used_again_when_it_is_unsealed(bao: OpenBao, opened: Opener) -> None:
    key = opened(bao.uri(f"key-{random_id()}"), create=True)
    wrapped = key.wrap(KEY, context=CONTEXT)
    with bao.sealed(), pytest.raises(UnavailableError, match="503") as sealed:
        key.unwrap(wrapped, context=CONTEXT)
    assert "nseal" in sealed.value.action
    assert key.unwrap(wrapped, context=CONTEXT) == KEY


@pytest.mark.parametrize(
    "settings",
    [
        {"exportable": True},
        {"allow_plaintext_backup": True},
        {"type": "aes128-gcm96"},
        {"type": "chacha20-poly1305"},
        {"type": "rsa-3072"},
        {"derived": True},
    ],
)
def test_refuses_a_transit_key_that_could_leave_or_binds_no_context(
    bao: OpenBao, opened: Opener, settings: dict[str, object]
) -> None:
    name = f"key-{random_id()}"
    bao.ask("POST", f"transit/keys/{name}", {"type": "aes256-gcm96", **settings})
    for create in (False, True):
        with pytest.raises(ConfigurationError, match="does not serve"):
            opened(bao.uri(name), create=create)


def test_a_token_that_may_not_use_the_key_is_said(bao: OpenBao, opened: Opener, tmp_path: Path) -> None:
    name = f"key-{random_id()}"
    key = opened(bao.uri(name), create=True)
    wrapped = key.wrap(KEY, context=CONTEXT)
    may_read = bao.make_token(f"read-{name}", {f"transit/keys/{name}": ["read"]})
    limited = opened(bao.uri(name, token_file=secret_file(tmp_path, "limited", may_read)))
    with pytest.raises(ConfigurationError, match="does not allow"):
        limited.unwrap(wrapped, context=CONTEXT)
    with pytest.raises(ConfigurationError, match="does not allow"):
        limited.wrap(KEY, context=CONTEXT)


def test_a_rotated_transit_key_opens_what_its_old_version_wrapped(bao: OpenBao, opened: Opener) -> None:
    name = f"key-{random_id()}"
    key = opened(bao.uri(name), create=True)
    before = key.wrap(KEY, context=CONTEXT)
    bao.ask("POST", f"transit/keys/{name}/rotate")
    after = key.wrap(KEY, context=CONTEXT)
    assert before[2:6] != after[2:6], "the version of the key stands first"
    assert opens(key, before)
    assert opens(key, after)


def test_a_namespace_is_another_vault(bao: OpenBao, opened: Opener) -> None:
    bao.ask("POST", "sys/namespaces/team")
    bao.ask("POST", "sys/mounts/transit", {"type": "transit"}, namespace="team")
    name = f"key-{random_id()}"
    token = bao.make_token("team", {"transit/*": ["create", "read", "update"]}, namespace="team")
    file = bao.secret_file("team-token", token)
    key = opened(bao.uri(name, token_file=file, more="&namespace=team"), create=True)
    assert opens(key, key.wrap(KEY, context=CONTEXT))
    with pytest.raises(ConfigurationError):
        opened(bao.uri(name))


def test_a_vault_that_nobody_accepted_vouches_for_gets_no_token(bao: OpenBao, opened: Opener, tmp_path: Path) -> None:
    name = f"key-{random_id()}"
    opened(bao.uri(name), create=True)
    without_ca = f"vault://{bao.address}/transit/{name}?token-source={bao.token_file}"
    with pytest.raises(StrongroomError, match="vouches"):
        opened(without_ca)
    other = secret_file(tmp_path, "ca.pem", bao.ca.read_text() + "\n")
    exchanged = bao.uri(name).replace(str(bao.ca), str(other))
    with pytest.raises(ConfigurationError, match="pins"):
        opened(exchanged)


def test_refuses_a_vaults_key_of_another_kind_than_the_address_says(
    vault: Installation, opened: Opener, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    symmetric = oct_holder(tmp_path, request)
    opened(symmetric.uri, create=True)
    for kty in ("RSA", "RSA-HSM"):
        with pytest.raises(ConfigurationError, match="of type oct-HSM"):
            opened(symmetric.uri.replace("kty=oct-HSM", f"kty={kty}"), create=True)


def test_whoever_has_the_public_key_alone_wraps_nothing_that_opens(
    vault: Installation, opened: Opener, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """RSA-OAEP and AES-GCM by anybody: only the vault's own signature makes a wrapped key genuine."""
    holder = rsa_holder(tmp_path, request)
    key = opened(holder.uri, create=True)
    genuine, foreign = (key.wrap(each, context=CONTEXT) for each in (KEY, SecretBytes(bytes(32))))
    size = int.from_bytes(genuine[18:20], "big")
    signature = slice(20 + size, 20 + 2 * size)
    forged = genuine[: signature.start] + foreign[signature] + genuine[signature.stop :]
    assert not opens(key, forged)
    assert not opens(key, genuine[: signature.start] + bytes(size) + genuine[signature.stop :])
    assert opens(key, genuine)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "credential=token-file",
        "credential=environment&token-source=/t",
        "credential=token-file&token-source=/t&tenant=x",
        "credential=workload-identity&token-source=/t",
        "credential=token-file&token-source=relative",
    ],
)
def test_a_vaults_address_names_one_whole_credential(opened: Opener, options: str) -> None:
    with pytest.raises(ConfigurationError):
        opened(f"https://vault.example/keys/k?{options}")


@pytest.mark.parametrize(
    ("module", "uri", "extra"),
    [
        ("pkcs11", "pkcs11:token=t;object=k?module-path=/m.so&pin-source=/p", "pkcs11"),
        ("azure.keyvault.keys.crypto", "https://v.example/keys/k?credential=token-file&token-source=/t", "azure"),
        (
            "azure.identity",
            "https://v.example/keys/k?credential=workload-identity&tenant=t&client=c&token-source=/t",
            "azure",
        ),
    ],
)
def test_says_which_extra_to_install(monkeypatch: pytest.MonkeyPatch, module: str, uri: str, extra: str) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ConfigurationError) as missing:
        open_master_key(uri, create=False)
    assert f"strongroom[{extra}]" in missing.value.action


@pytest.mark.parametrize("uri", ["", "mek", "vault:", "vault:///k", "ftp://h/k", "custody:///roster", "https://h/k"])
def test_addresses_of_no_known_form_are_refused(uri: str) -> None:
    with pytest.raises(ConfigurationError):
        open_master_key(uri, create=True)


def test_a_workload_identity_is_a_credential_of_azures_own(tmp_path: Path) -> None:
    from azure.identity import WorkloadIdentityCredential  # noqa: PLC0415 - an extra

    token = secret_file(tmp_path, "assertion", "e30.e30.AAAA")
    address = parse_service_address(
        f"https://v.example/keys/k?credential=workload-identity&tenant=t-1&client=c-1&token-source={token}",
        form="",
        options=("credential", "tenant", "client", "token-source"),
    )
    credential = credential_of(address)
    assert isinstance(credential, WorkloadIdentityCredential)
    credential.close()


def test_a_key_that_was_wrapped_under_one_mark_does_not_open_under_another() -> None:
    """Even where both marks belong to one key: the mark is authenticated, not only compared."""
    raw = SecretBytes(random_bytes(32))
    first, second = WrapAlgorithm.FILE_A256GCM, WrapAlgorithm.CUSTODY_A256GCM
    wrapped = LocalMasterKey(raw, algorithm=first).wrap(KEY, context=CONTEXT)
    assert not opens(LocalMasterKey(raw, algorithm=second), bytes((2, second)) + wrapped[2:])
    assert opens(LocalMasterKey(raw, algorithm=first), wrapped)


def test_what_a_file_wrapped_before_wrapped_keys_had_marks_still_opens(tmp_path: Path, opened: Opener) -> None:
    opened(f"file://{tmp_path}/mek", create=True)
    raw = SecretBytes((tmp_path / "mek").read_bytes())
    earlier = aead.encrypt(raw, KEY.reveal(), context=CONTEXT)
    assert opens(opened(f"file://{tmp_path}/mek"), earlier)
    assert not opens(opened(f"file://{tmp_path}/mek"), earlier, context=b"another")


@pytest.mark.parametrize("attribute", ["pin-value=1234", "x=1&pin-value=1234"])
def test_a_pin_in_an_address_counts_as_published(opened: Opener, attribute: str) -> None:
    with pytest.raises(ConfigurationError, match="holds a PIN") as refused:
        opened(f"pkcs11:token=t;object=k?module-path=/m.so&{attribute}")
    assert "Change the PIN" in refused.value.action
    assert "1234" not in refused.value.message + refused.value.action
