from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.errors import RefusedError
from strongroom.engine.settings import (
    application_jvm_options,
    argument_file_text,
    check_application_settings,
    enforced_settings,
    guarded_settings,
    jvm_options,
    properties_text,
)


def test_the_channel_and_the_disk_are_encrypted_and_nothing_is_shown() -> None:
    settings = enforced_settings()
    expected = {
        "spark.authenticate": "true",
        "spark.network.crypto.enabled": "true",
        "spark.network.crypto.cipher": "AES/GCM/NoPadding",
        "spark.network.crypto.authEngineVersion": "2",
        "spark.network.crypto.saslFallback": "false",
        "spark.io.encryption.enabled": "true",
        "spark.io.encryption.keySizeBits": "256",
        "spark.io.encryption.commons.config.cipher.classes": "org.apache.commons.crypto.cipher.JceCipher",
        "spark.io.encryption.commons.config.secure.random.classes": "org.apache.commons.crypto.random.JavaCryptoRandom",
        "spark.io.encryption.commons.config.secure.random.java.algorithm": "NativePRNG",
        "spark.python.unix.domain.socket.enabled": "true",
        "spark.ui.enabled": "false",
        "spark.eventLog.enabled": "false",
        "spark.master.rest.enabled": "false",
        "spark.shuffle.service.enabled": "false",
    }
    assert {name: settings[name] for name in expected} == expected


def test_settings_hold_no_secret() -> None:
    assert not [name for name in enforced_settings() | guarded_settings() if "secret" in name.lower()]


def test_what_is_guarded_is_also_enforced_or_must_be_unset() -> None:
    enforced = enforced_settings()
    for name, value in guarded_settings().items():
        assert value == enforced.get(name, "")


def test_an_application_may_choose_other_settings_and_repeat_enforced_ones() -> None:
    check_application_settings({"spark.sql.shuffle.partitions": "7", "spark.authenticate": "true"})


@pytest.mark.parametrize("name", sorted(enforced_settings() | guarded_settings()))
def test_an_application_may_not_change_an_enforced_setting(name: str) -> None:
    with pytest.raises(RefusedError) as caught:
        check_application_settings({name: "other", "spark.app.name": "x"})
    assert [mismatch.name for mismatch in caught.value.mismatches] == [name]


def test_an_application_chooses_options_of_its_jvms() -> None:
    chosen = {"spark.driver.extraJavaOptions": "-Xss4m  -XX:+UseG1GC", "spark.executor.extraJavaOptions": "-Xss1m"}
    assert application_jvm_options(chosen, role="driver") == ("-Xss4m", "-XX:+UseG1GC")
    assert application_jvm_options(chosen, role="executor") == ("-Xss1m",)
    assert application_jvm_options({}, role="driver") == ()


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_properties_cannot_be_smuggled_in_through_a_value(settings: dict[str, str]) -> None:
    text = properties_text(settings)
    assert text.isascii()
    assert text.count("\n") == len(settings)
    read = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        read[_unescaped(name)] = _unescaped(value)
    assert read == settings


def test_java_options_keep_every_file_in_scratch() -> None:
    options = jvm_options(scratch=Path("/dev/shm/x"), log_settings=Path("/opt/log4j2.properties"), aot_cache=None)
    written = [
        option for option in options if "ErrorFile" in option or "tmpdir" in option or "strongroom.log" in option
    ]
    assert len(written) == 3
    assert all("=/dev/shm/x/" in option for option in written)


def test_argument_file_keeps_spaces_and_quotes() -> None:
    assert argument_file_text(('-Dx=a "b"\\c',)) == '"-Dx=a \\"b\\"\\\\c"\n'


def _unescaped(text: str) -> str:
    parts = text.split("\\u")
    units = parts[0].encode("utf-16-be") + b"".join(
        bytes.fromhex(part[:4]) + part[4:].encode("utf-16-be") for part in parts[1:]
    )
    return units.decode("utf-16-be", "surrogatepass")
