"""Receipts, verified by the product and by the auditor's single file: both must come to the same verdict."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from strongroom.base.errors import StrongroomError
from strongroom.receipts.verify import VerifiedReceipt, verify_receipt
from strongroom.wire.trust import Trust

SINGLE_FILE: Final = Path(__file__).parents[2] / "verifier" / "strongroom_verify.py"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("strongroom_verify", SINGLE_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


single_file: Final = _load()


def verify_by_both(receipt: bytes, *, trust: Trust, min_witnesses: int = 0) -> VerifiedReceipt:
    """Verify a receipt twice; raises what the product raises, and AssertionError where the two disagree."""
    theirs, fault = None, None
    try:
        theirs = single_file.verify(receipt, trust.to_json(), min_witnesses)
    except single_file.DoesNotHoldError as error:
        fault = str(error)
    try:
        ours = verify_receipt(receipt, trust=trust, min_witnesses=min_witnesses)
    except StrongroomError as error:
        if theirs is not None:
            pytest.fail(f"the single file accepts what the product refuses: {error.message}")
        raise
    assert theirs is not None, f"the single file refuses what the product accepts: {fault}"
    assert (theirs["run"], theirs["outcome"], theirs["hardware"]) == (
        ours.body.run_id,
        ours.body.outcome,
        ours.body.hardware,
    )
    assert theirs["application"] == ours.application
    assert [_member(each) for each in theirs["members"]] == [
        (
            int(each["number"]),
            each["role"],
            each["tee"],
            each["shape"],
            each.get("service_account"),
            each.get("pod_uid"),
        )
        for each in ours.members
    ]
    assert theirs["inputs"] == {name: version.number for name, version in ours.inputs.items()}
    assert theirs["outputs"] == {name: version.number for name, version in ours.outputs.items()}
    assert theirs["approved"] == sorted(ours.approvals)
    assert theirs["key_services"] == ours.modes
    assert theirs["vaults"] == {identity: vault.back_end for identity, vault in ours.vaults.items()}
    assert theirs["attested_by"] == ours.body.attestation_service
    assert theirs["statement"] == (ours.statement is not None)
    assert theirs["witnesses"] == {
        identity: [each.witness for each in found] for identity, found in ours.witnesses.items()
    }
    return ours


def _member(said: dict[str, Any]) -> tuple[int, str, str, str, str | None, str | None]:
    pod = said.get("pod", {})
    return said["number"], said["role"], said["tee"], said["shape"], pod.get("subject"), pod.get("pod_uid")
