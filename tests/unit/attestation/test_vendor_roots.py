"""The vendors' roots are told by their keys, and only for their own hardware."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.platform import NOW, Bench

from strongroom.attestation.verifier.vendor_roots import VENDOR_ROOTS, vendor_root
from strongroom.base.encoding import parse_json_object
from strongroom.crypto import x509
from strongroom.crypto.keys import SigningKey


@pytest.mark.parametrize("name", ["ask_ark_milan", "ask_ark_genoa", "ask_ark_turin", "asvk_ark_milan"])
def test_amds_roots_are_built_in_and_nothing_else_of_their_chains(shared: Path, name: str) -> None:
    authority, root = x509.parse_pem_chain((shared / "vectors" / "snp" / f"{name}.pem").read_bytes())
    found = vendor_root(root, vendor="AMD")
    assert found is not None
    assert (found.certificate_der, found.hardware) == (root, "real")
    assert vendor_root(authority, vendor="AMD") is None
    assert vendor_root(root, vendor="Intel") is None


@pytest.mark.parametrize("name", ["sgx/sgx_quote", "tdx/tdx_quote", "tdx/tdx_quote_outdated"])
def test_intels_root_is_built_in(shared: Path, name: str) -> None:
    collateral: Any = parse_json_object((shared / "vectors" / f"{name}_collateral.json").read_bytes())
    signer, root = x509.parse_pem_chain(collateral["tcb_info_issuer_chain"].encode())
    assert vendor_root(root, vendor="Intel") is not None
    assert vendor_root(signer, vendor="Intel") is None
    assert vendor_root(root, vendor="AMD") is None


def test_the_vendors_names_under_other_keys_are_not_their_roots() -> None:
    key = SigningKey.generate("ES256")
    for vendor, names in VENDOR_ROOTS.items():
        for name in names.values():
            false = x509.new_identity(common_name=name, key=key, not_before=NOW, not_after=NOW + timedelta(days=3650))
            assert vendor_root(false, vendor=vendor) is None


def test_simulated_roots_are_not_built_in() -> None:
    assert vendor_root(Bench.new().platform.root_der, vendor="Intel") is None
