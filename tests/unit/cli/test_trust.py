import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.support.azure_attestation import AzureProvider
from tests.support.trust_files import trust_file

from strongroom.attestation.evidence.initdata import parse_initdata, render_initdata
from strongroom.base.errors import ConfigurationError, FormatError
from strongroom.cli.main import strongroom
from strongroom.clients.pinned import ServiceHttp
from strongroom.submit.run import load_trust
from strongroom.submit.services import attesting_service
from strongroom.wire.azure_attestation import AzureAttestationAddress, TrustedAzureAttestation
from strongroom.wire.trust import Anchors, NodeReference, PodReference, Trust


@pytest.fixture
def own(tmp_path: Path) -> Trust:
    return trust_file(tmp_path / "state" / "trust.json", port=1000)


@pytest.fixture
def theirs(tmp_path: Path) -> Trust:
    return trust_file(tmp_path / "theirs.json", port=2000)


def run(tmp_path: Path, *arguments: str, answer: str = "y\n") -> Result:
    return CliRunner().invoke(strongroom, ["trust", *arguments, "--state", str(tmp_path / "state")], input=answer)


def kept(tmp_path: Path) -> Trust:
    return load_trust(tmp_path / "state" / "trust.json")


def test_adding_shows_everything_that_will_be_trusted_and_asks(tmp_path: Path, own: Trust, theirs: Trust) -> None:
    shown = run(tmp_path, "add", "hospital", str(tmp_path / "theirs.json"), answer="n\n")

    assert shown.exit_code == 130
    for service in theirs.services:
        assert service.identity in shown.output
        assert service.url in shown.output
    assert theirs.owners[0] in shown.output
    assert "simulated (protects nothing)" in shown.output
    assert f"{theirs.agent_measurements[0]} (yours too)" in shown.output
    assert kept(tmp_path) == own


def test_a_partner_is_trusted_for_itself_alone(tmp_path: Path, own: Trust, theirs: Trust) -> None:
    assert run(tmp_path, "add", "hospital", str(tmp_path / "theirs.json")).exit_code == 0

    trust = kept(tmp_path)
    assert (trust.roots, trust.services, trust.owners) == (own.roots, own.services, own.owners)
    partner = trust.partner("hospital")
    assert partner is not None
    assert (partner.anchors.services, partner.accept_results) == (theirs.services, False)
    for service in theirs.services:
        assert trust.party_of(service.identity) == partner.anchors
    assert trust.party_of(own.services[0].identity) is trust
    assert trust.party_of("00" * 32) is None


@pytest.mark.usefixtures("own")
def test_the_partners_of_a_partner_are_not_taken_over(tmp_path: Path, theirs: Trust) -> None:
    third = trust_file(tmp_path / "third.json", port=3000)
    anchors = {name: value for name, value in third.model_dump(mode="json").items() if name in Anchors.model_fields}
    partner = {"name": "bank", "accept_results": True, "anchors": anchors}
    nested = {**theirs.model_dump(mode="json"), "partners": [partner]}
    (tmp_path / "theirs.json").write_bytes(Trust.from_object(nested).to_json())

    shown = run(tmp_path, "add", "hospital", str(tmp_path / "theirs.json"))

    assert "not taken over from theirs.json: its partners bank" in shown.output
    assert [partner.name for partner in kept(tmp_path).partners] == ["hospital"]
    assert kept(tmp_path).party_of(third.services[0].identity) is None


@pytest.mark.usefixtures("own", "theirs")
def test_a_partner_is_replaced_and_removed_by_name(tmp_path: Path) -> None:
    path = tmp_path / "theirs.json"
    run(tmp_path, "add", "hospital", str(path), "--accept-results", "--yes")
    again = trust_file(path, port=2000)
    run(tmp_path, "add", "hospital", str(path), "--yes")

    partner = kept(tmp_path).partner("hospital")
    assert partner is not None
    assert partner.anchors.services == again.services
    assert run(tmp_path, "remove", "hospital").exit_code == 0
    assert kept(tmp_path).partners == ()
    assert "no partner hospital" in run(tmp_path, "remove", "hospital").output


@pytest.mark.usefixtures("own")
def test_refuses_a_partner_that_is_oneself_or_of_other_hardware(tmp_path: Path, theirs: Trust) -> None:
    mine = str(tmp_path / "state" / "trust.json")
    assert "a service is two parties' at once" in run(tmp_path, "add", "hospital", mine).output
    real = {**theirs.model_dump(mode="json"), "hardware": "real"}
    real["roots"] = [{**root, "simulated": False} for root in real["roots"]]
    (tmp_path / "real.json").write_bytes(Trust.from_object(real).to_json())
    refused = run(tmp_path, "add", "hospital", str(tmp_path / "real.json"))
    assert refused.exit_code == 1
    assert "the same kind of hardware" in refused.output
    assert kept(tmp_path).partners == ()


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"hardware":"simulated"}'])
def test_refuses_a_file_that_is_no_trust_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    refused = run(tmp_path, "add", "hospital", str(tmp_path / "file"))

    assert refused.exit_code == 1
    assert "Traceback" not in refused.output
    assert kept(tmp_path).partners == ()


@pytest.mark.usefixtures("own", "theirs")
def test_shows_ones_own_trust_file_and_partners(tmp_path: Path) -> None:
    run(tmp_path, "add", "hospital", str(tmp_path / "theirs.json"), "--accept-results", "--yes")

    assert "partner hospital" in run(tmp_path, "show").output
    assert "are accepted by your key service" in run(tmp_path, "show").output
    assert json.loads(run(tmp_path, "show", "--json").output) == kept(tmp_path).model_dump(mode="json")
    assert "partner" not in run(tmp_path, "show", str(tmp_path / "theirs.json")).output


def test_two_partners_have_two_names(own: Trust, theirs: Trust, tmp_path: Path) -> None:
    run(tmp_path, "add", "hospital", str(tmp_path / "theirs.json"), "--yes")
    third = trust_file(tmp_path / "third.json", port=3000)
    partner = kept(tmp_path).partners[0]
    other = partner.model_copy(update={"anchors": partner.anchors.model_copy(update={"services": third.services})})
    with pytest.raises(ValueError, match="two partners have one name"):
        Trust.model_validate_json(own.model_copy(update={"partners": (partner, other)}).to_json())
    assert theirs.services


MEASUREMENT, APPLICATION = "ab" * 48, "a1" * 32
IMAGE = "sha256:" + "c3" * 32


@pytest.fixture
def document(tmp_path: Path) -> Path:
    policy = f'package agent_policy\nstrongroom_image := "registry.example/spark@{IMAGE}"\n'
    path = tmp_path / "initdata.toml"
    path.write_bytes(render_initdata({"policy.rego": policy}, application=APPLICATION))
    return path


@pytest.mark.usefixtures("own")
def test_pods_are_trusted_by_their_configuration_or_by_template_and_image(tmp_path: Path, document: Path) -> None:
    found = parse_initdata(document.read_bytes())
    trusting = ("pod", str(document), "--tee", "snp", "--measurement", MEASUREMENT)
    assert run(tmp_path, *trusting).exit_code == 0
    assert "strongroom policy set --default" in run(tmp_path, *trusting, "--image").output
    assert kept(tmp_path).pods == (
        PodReference(tee="snp", measurement=MEASUREMENT, configuration=found.configuration),
        PodReference(tee="snp", measurement=MEASUREMENT, template=found.template, image=IMAGE),
    )
    assert run(tmp_path, *trusting).exit_code == 0
    assert len(kept(tmp_path).pods) == 2, "what is trusted already is not trusted twice"
    shown = run(tmp_path, "show").output
    assert f"configuration {found.configuration}" in shown
    assert f"with the image {IMAGE}" in shown
    assert run(tmp_path, *trusting, "--remove").exit_code == 0
    assert [each.image for each in kept(tmp_path).pods] == [IMAGE]
    refused = run(tmp_path, *trusting, "--remove")
    assert refused.exit_code == 1
    assert "does not name it" in refused.output


@pytest.mark.usefixtures("own")
def test_an_image_is_a_reference_value_where_the_document_names_it(tmp_path: Path) -> None:
    path = tmp_path / "initdata.toml"
    path.write_bytes(render_initdata({"policy.rego": "package agent_policy\n"}, application=APPLICATION))
    refused = run(tmp_path, "pod", str(path), "--tee", "tdx", "--measurement", MEASUREMENT, "--image")
    assert refused.exit_code == 2
    assert "no line that names its image" in refused.output
    assert kept(tmp_path).pods == ()


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    "arguments",
    [
        ("node", "--tee", "snp", "--measurement", "ab" * 32),
        ("node", "--tee", "sgx", "--measurement", MEASUREMENT),
        ("node", "--tee", "snp"),
        ("pod", "trust.json", "--tee", "snp", "--measurement", MEASUREMENT),
    ],
)
def test_refuses_reference_values_that_nothing_could_have(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    words = [str(tmp_path / "state" / each) if each == "trust.json" else each for each in arguments]
    refused = run(tmp_path, *words)
    assert refused.exit_code in {1, 2}
    assert "Traceback" not in refused.output
    assert (kept(tmp_path).pods, kept(tmp_path).nodes) == ((), ())


@pytest.mark.usefixtures("own")
def test_nodes_are_trusted_by_their_measurement_and_called_weaker(tmp_path: Path) -> None:
    assert run(tmp_path, "node", "--tee", "tdx", "--measurement", MEASUREMENT).exit_code == 0
    assert kept(tmp_path).nodes == (NodeReference(tee="tdx", measurement=MEASUREMENT),)
    assert "node (weaker)" in run(tmp_path, "show").output
    assert run(tmp_path, "node", "--tee", "tdx", "--measurement", MEASUREMENT, "--remove").exit_code == 0
    assert kept(tmp_path).nodes == ()


@pytest.mark.usefixtures("own")
def test_a_partners_pods_and_nodes_are_shown_before_they_are_trusted(tmp_path: Path) -> None:
    pods = [{"tee": "snp", "measurement": MEASUREMENT, "configuration": "cd" * 32}]
    trust_file(tmp_path / "theirs.json", port=2000, pods=pods, nodes=[{"tee": "tdx", "measurement": MEASUREMENT}])
    shown = run(tmp_path, "add", "hospital", str(tmp_path / "theirs.json"))
    assert "cd" * 32 in shown.output
    assert "node (weaker)" in shown.output
    partner = kept(tmp_path).partner("hospital")
    assert partner is not None
    assert (len(partner.anchors.pods), len(partner.anchors.nodes)) == (1, 1)


# --- Azure Attestation ------------------------------------------------------------------------------------------------


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[AzureProvider]:
    """A provider that publishes keys; nothing is attested here."""
    made = AzureProvider(ServiceHttp("https://127.0.0.1:1", authorities_pem=None))
    (tmp_path / "authority.pem").write_text(made.authority_pem)
    try:
        yield made
    finally:
        made.stop()


def take_up(tmp_path: Path, provider: AzureProvider, *options: str, answer: str = "y\n") -> Result:
    return run(tmp_path, "azure", provider.url, *options, answer=answer)


def test_taking_up_a_provider_shows_its_keys_and_asks(tmp_path: Path, own: Trust, provider: AzureProvider) -> None:
    authority = ("--authorities", str(tmp_path / "authority.pem"))
    shown = take_up(tmp_path, provider, *authority, answer="n\n")

    assert shown.exit_code == 130
    for key in provider.published:
        assert f"{key.digest} (new) CN={provider.url}" in shown.output
    assert kept(tmp_path) == own
    assert take_up(tmp_path, provider, *authority).exit_code == 0
    (trusted,) = kept(tmp_path).azure_attestation
    assert trusted.certificates == tuple(key.digest for key in provider.published)
    assert (trusted.url, trusted.address.authorities_pem) == (provider.url, provider.authority_pem)
    assert (trusted.address.endorsements.pcs, trusted.address.endorsements.kds) == (None, None)
    assert provider.published[0].digest in run(tmp_path, "show").output


@pytest.mark.usefixtures("own")
def test_new_keys_are_added_to_the_earlier_ones_and_the_rest_stays(tmp_path: Path, provider: AzureProvider) -> None:
    (tmp_path / "pccs.pem").write_text("the cache's authority")
    servers = ("--pcs", "https://pccs.example:8081", "--endorsement-authorities", str(tmp_path / "pccs.pem"))
    take_up(tmp_path, provider, "--authorities", str(tmp_path / "authority.pem"), *servers, "--yes")
    (before,) = kept(tmp_path).azure_attestation
    new = provider.rotate()
    provider.published = provider.published[1:]

    again = take_up(tmp_path, provider, "--kds", "https://kds.example", "--yes")

    assert again.exit_code == 0, again.output
    assert f"{new.digest} (new)" in again.output
    assert f"{provider.published[0].digest} (known)" in again.output
    (after,) = kept(tmp_path).azure_attestation
    assert after.certificates == (*before.certificates, new.digest)
    endorsements = after.address.endorsements
    assert (endorsements.pcs, endorsements.kds) == ("https://pccs.example:8081", "https://kds.example")
    assert endorsements.authorities_pem == "the cache's authority"
    assert after.address.authorities_pem == before.address.authorities_pem


def test_a_provider_is_removed_by_its_address(tmp_path: Path, own: Trust, provider: AzureProvider) -> None:
    take_up(tmp_path, provider, "--authorities", str(tmp_path / "authority.pem"), "--yes")

    assert (
        "no provider https://other.weu.attest.azure.net"
        in run(tmp_path, "remove", "https://other.weu.attest.azure.net").output
    )
    assert run(tmp_path, "remove", f"{provider.url}/").exit_code == 0
    assert kept(tmp_path) == own


def test_refuses_a_provider_that_nobody_vouches_for_or_that_has_no_keys(
    tmp_path: Path, own: Trust, provider: AzureProvider
) -> None:
    assert "is not Azure Attestation" in take_up(tmp_path, provider, "--yes").output
    provider.published = []
    authority = ("--authorities", str(tmp_path / "authority.pem"), "--yes")
    assert "publishes no keys" in take_up(tmp_path, provider, *authority).output
    for address in ("http://a.weu.attest.azure.net", "https://a.weu.attest.azure.net/path", "hospital", "https://"):
        assert run(tmp_path, "azure", address).exit_code == 2
    assert kept(tmp_path) == own


def test_two_attestation_services_have_two_addresses(own: Trust, provider: AzureProvider) -> None:
    def anchors(*urls: str) -> bytes:
        named = [
            TrustedAzureAttestation(
                address=AzureAttestationAddress(kind="azure-attestation", url=url), certificates=("ab" * 32,)
            )
            for url in urls
        ]
        return own.model_copy(update={"azure_attestation": tuple(named)}).to_json()

    assert Trust.from_json(anchors(provider.url, "https://a.weu.attest.azure.net"))
    for urls in ((provider.url, provider.url), (own.services[0].url,)):
        with pytest.raises(FormatError, match="two attestation services have one address"):
            Trust.from_json(anchors(*urls))


@pytest.mark.usefixtures("own")
def test_a_partners_providers_come_with_the_partner(tmp_path: Path, theirs: Trust, provider: AzureProvider) -> None:
    address = AzureAttestationAddress(kind="azure-attestation", url=provider.url)
    named = TrustedAzureAttestation(address=address, certificates=("ab" * 32,))
    (tmp_path / "theirs.json").write_bytes(theirs.model_copy(update={"azure_attestation": (named,)}).to_json())
    run(tmp_path, "add", "hospital", str(tmp_path / "theirs.json"), "--yes")

    assert attesting_service(kept(tmp_path), provider.url) == named
    with pytest.raises(ConfigurationError, match="does not name"):
        attesting_service(kept(tmp_path), "https://other.weu.attest.azure.net")
    assert attesting_service(kept(tmp_path), "hospital") == theirs.services[0]
