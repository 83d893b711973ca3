"""Shapes: which results are of which, and that a policy of one shape is met by no other."""

import itertools
from typing import Any

import pytest
from tests.unit.policy.test_approval import APPLICATION, CLAIMS, RUN, TICKET, approval, claims_of, refused_names

from strongroom.base.errors import FormatError
from strongroom.policy.approval import Approval, demand_enforceable
from strongroom.policy.back_ends import BackEnd
from strongroom.policy.shapes import TEES_OF, VIRTUAL, forms, shape_of
from strongroom.policy.tee_claims import TEE_CLAIMS, measurement_of, quote_hash
from strongroom.wire.model import SHAPES, TEE_KINDS, Shape, TeeKind

OTHER = "ff" * 32
NODES = ("node", "azure")


def result(shape: str, tee: TeeKind, **changed: Any) -> dict[str, Any]:
    """What a good result says of a TEE; a node's may be above a paravisor."""
    claims = claims_of(tee)
    launched_with = TEE_CLAIMS[tee].launched_with
    match shape:
        case "pod":
            claims |= {launched_with: "77" * 16, "x-ms-strongroom-initdata-application": APPLICATION}
        case "node":
            claims |= {launched_with: TEE_CLAIMS[tee].launch_value("")}
        case "azure":
            below = {name: value for name, value in claims.items() if not name.startswith("x-ms-strongroom")}
            for name in ("iss", "x-ms-policy-hash", "x-ms-runtime"):
                del below[name]
            claims = {name: value for name, value in claims.items() if name not in below} | {
                "x-ms-attestation-type": "azurevm",
                "x-ms-isolation-tee": below | {launched_with: APPLICATION, "x-ms-runtime": {"keys": []}},
                "x-ms-strongroom-runtime-data-attested": True,
            }
    return claims | changed


GOOD: list[tuple[str, TeeKind, Shape]] = [
    *(("process", tee, "process") for tee in TEE_KINDS),
    *(("pod", tee, "pod") for tee in VIRTUAL),
    *((node, tee, "confidential-node") for node in NODES for tee in VIRTUAL),
]


@pytest.mark.parametrize(("made", "tee", "shape"), GOOD)
def test_a_result_is_of_one_shape_and_meets_exactly_the_approvals_that_name_it(
    made: str, tee: TeeKind, shape: Shape
) -> None:
    claims = result(made, tee)
    assert shape_of(claims) == shape
    for admitted in (each for count in (1, 2, 3) for each in itertools.combinations(SHAPES, count)):
        if not any(tee in TEES_OF[each] for each in admitted):
            continue
        tees = [tee] if set(admitted) != {"process", "pod"} or tee != "sgx" else [tee, "snp"]
        if tee == "sgx" and admitted != ("process",):
            tees = ["sgx", "snp"]
        refused = refused_names(approval(shape=None, shapes=admitted, tees=tees), claims=claims)
        assert (refused == []) == (shape in admitted)
        assert shape in admitted or refused[0] == "shape"


@pytest.mark.parametrize(("made", "tee", "shape"), GOOD)
def test_what_is_launched_for_another_application_has_no_shape(made: str, tee: TeeKind, shape: Shape) -> None:
    claims = result(made, tee)
    claims["x-ms-runtime"] = claims["x-ms-runtime"] | {"application": OTHER}
    assert shape_of(claims) == (shape if shape == "confidential-node" else None)
    approved = approval(shape=None, shapes=[shape], tees=[tee])
    assert "x-ms-runtime.application" in refused_names(approved, claims=claims)


@pytest.mark.parametrize(
    ("made", "path", "value"),
    [
        ("pod", "x-ms-strongroom-initdata-application", OTHER),
        ("pod", "x-ms-strongroom-initdata-application", None),
        ("node", "x-ms-sevsnpvm-hostdata", OTHER),
        ("node", "x-ms-sevsnpvm-is-debuggable", True),
        ("node", "x-ms-sevsnpvm-vmpl", 2),
        ("azure", "x-ms-strongroom-runtime-data-attested", False),
        ("azure", "x-ms-strongroom-runtime-data-attested", 1),
        ("azure", "x-ms-isolation-tee", "text"),
        ("azure", "x-ms-isolation-tee.x-ms-sevsnpvm-is-debuggable", True),
        ("azure", "x-ms-isolation-tee.x-ms-sevsnpvm-migration-allowed", True),
        ("azure", "x-ms-isolation-tee.x-ms-sevsnpvm-vmpl", 1),
        ("azure", "x-ms-isolation-tee.x-ms-attestation-type", "tdxvm"),
        ("azure", "x-ms-strongroom-hardware", "real"),
    ],
)
def test_each_claim_of_the_other_shapes_matters(made: str, path: str, value: object) -> None:
    claims = result(made, "snp")
    outer, _, inner = path.partition(".")
    claims[outer] = {**claims[outer], inner: value} if inner else value
    approved = approval(shape=None, shapes=["pod", "confidential-node"], tees=["snp"])
    assert path.removesuffix(".x") in refused_names(approved, claims=claims) or refused_names(approved, claims=claims)
    assert refused_names(approved, claims=result(made, "snp")) == []


def test_a_trust_domain_below_a_paravisor_must_not_migrate() -> None:
    approved = approval(shape=None, shapes=["confidential-node"], tees=["tdx"])
    moving = result("azure", "tdx", **{"x-ms-strongroom-migratable": True})
    assert "x-ms-strongroom-migratable" in refused_names(approved, claims=moving)


def test_azures_own_call_attests_no_runtime_data_and_is_no_node() -> None:
    """Azure's clients have nothing of their payload signed: our service says so, and that is no shape."""
    claims = result("azure", "snp", **{"x-ms-strongroom-runtime-data-attested": False})
    assert shape_of(claims) is None


@pytest.mark.parametrize(
    "claims", [{}, {"x-ms-runtime": 1}, {"x-ms-runtime": {"application": 1}}, CLAIMS | {"x-ms-runtime": {}}]
)
def test_a_result_that_does_not_name_an_application_has_no_shape(claims: dict[str, Any]) -> None:
    assert shape_of(claims) is None


def test_only_virtual_machines_are_pods_and_nodes() -> None:
    for shape in SHAPES:
        for tee in TEE_KINDS:
            assert bool(list(forms(shape, tee, application=APPLICATION))) == (tee in TEES_OF[shape])
    assert TEES_OF["pod"] == TEES_OF["confidential-node"] == VIRTUAL


@pytest.mark.parametrize("tee", VIRTUAL)
def test_what_lies_below_a_paravisor_is_found_there(tee: TeeKind) -> None:
    claims = result("azure", tee, **{"x-ms-strongroom-quotehash": "aa"})
    claims["x-ms-isolation-tee"] |= {TEE_CLAIMS[tee].measurement: "bb"}
    assert (quote_hash(claims, tee), measurement_of(claims, tee)) == ("aa", "bb")
    assert quote_hash(claims, "tdx" if tee == "snp" else "snp") is None
    assert measurement_of(claims | {TEE_CLAIMS[tee].measurement: "cc"}, tee) == "bb"


# --- approvals -------------------------------------------------------------------------------------------------------


def test_an_approval_from_before_there_were_shapes_means_what_it_meant() -> None:
    old = approval()
    assert (old.shape, old.shapes, old.admitted_shapes) == ("process", (), ("process",))
    assert b'"shape":"process"' in old.to_json()
    assert b"shapes" not in old.to_json()
    assert Approval.from_json(old.to_json()) == old


def test_the_weaker_shape_is_never_meant_unless_it_is_said() -> None:
    assert "confidential-node" not in approval().admitted_shapes
    with pytest.raises(FormatError):
        approval(shape=None)


@pytest.mark.parametrize(
    "changes",
    [
        {"shapes": ["process"]},
        {"shape": None, "shapes": []},
        {"shape": None, "shapes": ["process", "process"]},
        {"shape": None, "shapes": ["node"]},
        {"shape": "pod", "tees": ["snp"]},
        {"shape": None, "shapes": ["pod"]},
        {"shape": None, "shapes": ["pod"], "tees": ["sgx", "snp"]},
        {"shape": None, "shapes": ["process", "pod"], "tees": ["sgx"]},
        {"shape": None, "shapes": ["confidential-node"], "tees": ["sgx"]},
    ],
)
def test_refuses_shapes_that_are_not_named_once_or_that_nothing_could_have(changes: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        approval(**changes)


def test_a_back_end_that_cannot_say_where_a_digest_stands_takes_processes_alone() -> None:
    for shapes in (["pod"], ["confidential-node"]):
        made = approval(shape=None, shapes=shapes, tees=["snp", "tdx"])
        demand_enforceable(made, BackEnd.STRONGROOM)
        with pytest.raises(Exception, match="cannot enforce"):
            demand_enforceable(made, BackEnd.AZURE_ATTESTATION)


def test_the_run_counts_in_every_shape() -> None:
    assert CLAIMS["x-ms-runtime"]["run"] == RUN
    other = TICKET.model_copy(update={"max_executors": 1})
    for made, tee, shape in GOOD:
        approved = approval(shape=None, shapes=[shape], tees=[tee])
        assert "x-ms-runtime.run" in refused_names(approved, ticket=other, claims=result(made, tee))
