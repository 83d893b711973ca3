import pytest

from strongroom.policy.claims import Claim, ClaimIssuer, ValueType, claims_from_json, claims_to_json, show


def test_value_type_follows_the_value() -> None:
    types = [Claim(type="c", value=value, issuer=ClaimIssuer.SERVICE).value_type for value in ("1", 1, True)]
    assert types == [ValueType.STRING, ValueType.INTEGER, ValueType.BOOLEAN]


def test_true_and_one_are_different_claims() -> None:
    one = Claim(type="c", value=1, issuer=ClaimIssuer.SERVICE)
    assert one != Claim(type="c", value=True, issuer=ClaimIssuer.SERVICE)
    assert len({one, Claim(type="c", value=True, issuer=ClaimIssuer.SERVICE)}) == 2


def test_array_becomes_one_claim_each_and_objects_are_left_out() -> None:
    claims = claims_from_json(
        {"svn": 3, "advisories": ["A", "B"], "runtime": {"role": "driver"}, "half": 0.5, "nothing": None},
        issuer=ClaimIssuer.SERVICE,
    )
    assert [(claim.type, claim.value) for claim in claims] == [("svn", 3), ("advisories", "A"), ("advisories", "B")]


def test_several_values_of_one_name_become_an_array() -> None:
    claims = [
        Claim(type=name, value=value, issuer=ClaimIssuer.POLICY) for name, value in (("a", 1), ("b", 2), ("a", 3))
    ]
    assert claims_to_json(claims) == {"a": [1, 3], "b": 2}


@pytest.mark.parametrize(
    ("value", "shown"),
    [(True, "true"), ("x", '"x"'), (7, "7"), (None, "null"), ({}, "an object"), ([], "an array"), ("y" * 500, None)],
)
def test_shown_values_are_short(value: object, shown: str | None) -> None:
    text = show(value)  # type: ignore[arg-type]
    assert len(text) < 200
    assert shown is None or text == shown
