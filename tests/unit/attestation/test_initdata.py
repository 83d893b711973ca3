"""Initdata: what a pod was launched with, read in one spelling, and compared with the field that is fixed at launch."""

import contextlib
import hashlib
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.attestation.evidence.initdata import (
    MAX_ENTRIES,
    launch_value_of,
    parse_initdata,
    render_initdata,
    verify_initdata,
)
from strongroom.base.errors import FormatError, LimitError, VerificationError
from strongroom.base.limits import LIMITS

APPLICATION, OTHER = "a1" * 32, "b2" * 32
DIGEST = "sha256:" + "c3" * 32
IMAGE_LINE = f'strongroom_image := "registry.example:5000/strongroom/spark@{DIGEST}"\n'
POLICY = f"package agent_policy\n\ndefault CreateContainerRequest := false\n{IMAGE_LINE}# it's 'quoted' twice: ''\n"
ENTRIES = {"policy.rego": POLICY, "cdh.toml": "socket = 'unix:///run/cdh.sock'\n\tx = \"é\"\n"}
GOOD = render_initdata(ENTRIES, application=APPLICATION)
OURS = '"strongroom.json" = \'\'\'\n{"application":"' + APPLICATION + "\",\"version\":1}\n'''\n"
HEAD = 'version = "0.1.0"\nalgorithm = "sha256"\n\n[data]\n'


def test_says_application_image_and_everything_else() -> None:
    found = parse_initdata(GOOD)
    assert (found.algorithm, found.application, found.image) == ("sha256", APPLICATION, DIGEST)
    assert {name: found.entries[name] for name in ENTRIES} == ENTRIES


def test_a_toml_parser_reads_the_same() -> None:
    read = tomllib.loads(GOOD.decode())
    assert (read["version"], read["algorithm"]) == ("0.1.0", "sha256")
    assert read["data"] == dict(parse_initdata(GOOD).entries)


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
        st.text(st.characters(blacklist_categories=("Cs", "Cc")) | st.sampled_from("\n\t'\"\\#[]=")),
        max_size=4,
    )
)
def test_whatever_is_read_here_a_toml_parser_reads_the_same(entries: dict[str, str]) -> None:
    with contextlib.suppress(FormatError):
        document = render_initdata(entries, application=APPLICATION)
        assert tomllib.loads(document.decode())["data"] == dict(parse_initdata(document).entries)


@given(st.binary(max_size=200) | st.text().map(lambda text: (HEAD + OURS + text).encode("utf-8", "replace")))
def test_any_bytes_parse_or_are_refused(document: bytes) -> None:
    with contextlib.suppress(FormatError):
        parsed = parse_initdata(document)
        assert tomllib.loads(document.decode())["data"] == dict(parsed.entries)


def test_the_application_does_not_change_the_configuration_and_everything_else_does() -> None:
    configuration = parse_initdata(GOOD).configuration
    assert parse_initdata(render_initdata(ENTRIES, application=OTHER)).configuration == configuration
    for changed in (
        ENTRIES | {"policy.rego": POLICY.replace("false", "true")},
        ENTRIES | {"policy.rego": POLICY.replace("c3", "c4", 1)},
        ENTRIES | {"cdh.toml": ""},
        ENTRIES | {"aa.toml": ""},
        {"policy.rego": POLICY},
    ):
        assert parse_initdata(render_initdata(changed, application=APPLICATION)).configuration != configuration
    other_hash = render_initdata(ENTRIES, application=APPLICATION, algorithm="sha384")
    assert parse_initdata(other_hash).configuration != configuration


def test_the_template_leaves_the_image_open_and_nothing_else() -> None:
    found = parse_initdata(GOOD)
    newer = ENTRIES | {"policy.rego": POLICY.replace("c3" * 32, "c4" * 32)}
    again = parse_initdata(render_initdata(newer, application=APPLICATION))
    assert (again.template, again.image) == (found.template, "sha256:" + "c4" * 32)
    other = ENTRIES | {"policy.rego": POLICY.replace("false", "true")}
    assert parse_initdata(render_initdata(other, application=APPLICATION)).template != found.template
    assert found.template not in (None, found.configuration)


def test_a_policy_without_a_line_for_its_image_names_none() -> None:
    found = parse_initdata(render_initdata({"policy.rego": "package agent_policy\n"}, application=APPLICATION))
    assert (found.template, found.image) == (None, None)
    indented = parse_initdata(render_initdata({"policy.rego": f"  {IMAGE_LINE}"}, application=APPLICATION))
    assert indented.image is None


@pytest.mark.parametrize(
    "line",
    [
        IMAGE_LINE + IMAGE_LINE,
        IMAGE_LINE + "strongroom_image := x\n",
        'strongroom_image := ""\n',
        f'strongroom_image := "registry/spark:latest@{DIGEST[:-1]}"\n',
        'strongroom_image := "registry/spark:latest"\n',
        f'strongroom_image := "registry/spark@{DIGEST}" # or another\n',
        f'strongroom_image = "registry/spark@{DIGEST}"\n',
        f'strongroom_image := "a\\"b@{DIGEST}"\n',
    ],
)
def test_refuses_a_policy_that_names_its_image_in_another_way(line: str) -> None:
    with pytest.raises(FormatError, match="image"):
        render_initdata({"policy.rego": line}, application=APPLICATION)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\xff",
        HEAD.encode(),
        (HEAD + "\"policy.rego\" = '''\n'''\n").encode(),
        (HEAD + OURS + OURS).encode(),
        (HEAD + OURS.replace("\n'''\n", "\n'''x\n")).encode(),
        (HEAD + OURS.replace("\n'''\n", "\n")).encode(),
        (HEAD + OURS.replace("'''", '"""')).encode(),
        (HEAD + OURS + "a = 1\n").encode(),
        (HEAD + OURS + "[other]\n").encode(),
        (HEAD + OURS + "# a comment\n").encode(),
        (HEAD + OURS).replace("\n", "\r\n").encode(),
        (HEAD + OURS).replace("0.1.0", "0.2.0").encode(),
        (HEAD + OURS).replace("sha256", "md5").encode(),
        (HEAD + OURS).replace("algorithm", "version").encode(),
        ("x = 1\n" + HEAD + OURS).encode(),
        (HEAD + OURS).replace(APPLICATION, APPLICATION.upper()).encode(),
        (HEAD + OURS).replace('"version":1', '"version":2').encode(),
        (HEAD + OURS).replace('"version":1', '"also":1').encode(),
        (HEAD + OURS + "\"x\" = '''\n\x00'''\n").encode(),
        (HEAD + OURS + "\"../x\" = '''\n'''\n").encode(),
        (HEAD + OURS + "\"x\" = '''\na''''\n").encode(),
    ],
)
def test_refuses_everything_but_the_one_spelling(document: bytes) -> None:
    with pytest.raises(FormatError):
        parse_initdata(document)


@pytest.mark.parametrize("value", ["'''", "it ends in a quote'", "\r", "\x00", "\ud800"])
def test_writes_nothing_that_would_be_read_otherwise(value: str) -> None:
    with pytest.raises(FormatError):
        render_initdata({"x": value}, application=APPLICATION)


@pytest.mark.parametrize("name", ["", "a b", "a\n", "-a", "strongroom.json"])
def test_refuses_names_that_it_cannot_write(name: str) -> None:
    with pytest.raises(FormatError):
        render_initdata({name: "x"}, application=APPLICATION)


def test_is_bounded() -> None:
    with pytest.raises(LimitError):
        parse_initdata(b" " * (LIMITS.initdata_bytes + 1))
    with pytest.raises(LimitError):
        render_initdata({f"e{number}": "" for number in range(MAX_ENTRIES)}, application=APPLICATION)
    assert render_initdata({f"e{number}": "" for number in range(MAX_ENTRIES - 1)}, application=APPLICATION)


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize(("kind", "size"), [("tdx", 48), ("snp", 32)])
def test_a_tee_was_launched_with_it_or_it_is_refused(kind: Any, size: int, algorithm: Any) -> None:
    document = render_initdata(ENTRIES, application=APPLICATION, algorithm=algorithm)
    launched_with = hashlib.new(algorithm, document).digest().ljust(64, b"\0")[:size]
    assert launch_value_of(document, kind=kind, algorithm=algorithm) == launched_with
    assert verify_initdata(document, kind=kind, launched_with=launched_with).application == APPLICATION
    other = render_initdata(ENTRIES, application=OTHER, algorithm=algorithm)
    for document_shown, field in ((other, launched_with), (document, bytes(size)), (document, b"")):
        with pytest.raises(VerificationError, match="not launched with this initdata"):
            verify_initdata(document_shown, kind=kind, launched_with=field)
