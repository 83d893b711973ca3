from typing import Any

import pytest

from strongroom.policy.tee_claims import TEE_CLAIMS, quote_hash
from strongroom.wire.model import TEE_KINDS, TeeKind

DIGEST = "ab" * 32
CLAIMS: dict[TeeKind, dict[str, Any]] = {
    "sgx": {"x-ms-attestation-type": "sgx", "x-ms-sgx-collateral": {"quotehash": DIGEST}},
    "tdx": {"x-ms-attestation-type": "tdxvm", "x-ms-strongroom-quotehash": DIGEST},
    "snp": {"x-ms-attestation-type": "sevsnpvm", "x-ms-strongroom-quotehash": DIGEST},
}


@pytest.mark.parametrize("said", TEE_KINDS)
@pytest.mark.parametrize("attested", TEE_KINDS)
def test_a_quote_belongs_to_a_result_of_its_own_kind_only(said: TeeKind, attested: TeeKind) -> None:
    assert quote_hash(CLAIMS[attested], said) == (DIGEST if said == attested else None)


@pytest.mark.parametrize("tee", TEE_KINDS)
def test_a_result_that_does_not_say_its_quote_belongs_to_none(tee: TeeKind) -> None:
    for name in CLAIMS[tee]:
        assert quote_hash({key: value for key, value in CLAIMS[tee].items() if key != name}, tee) is None
    assert quote_hash({**CLAIMS[tee], "x-ms-sgx-collateral": [], "x-ms-strongroom-quotehash": 1}, tee) is None


@pytest.mark.parametrize(("tee", "size"), [("sgx", 64), ("tdx", 48), ("snp", 32)])
def test_an_application_is_launched_with_its_digest_and_zeros(tee: TeeKind, size: int) -> None:
    assert bytes.fromhex(TEE_CLAIMS[tee].launch_value(DIGEST)) == bytes.fromhex(DIGEST).ljust(size, b"\0")
