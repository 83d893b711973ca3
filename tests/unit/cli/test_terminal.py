import json

import pytest

from strongroom.cli.terminal import counting, print_records, printable, short

DIGEST = "0123456789ab" + "c" * 52


def test_a_table_shows_the_beginnings_of_digests_and_json_shows_all(capsys: pytest.CaptureFixture[str]) -> None:
    records = [{"name": "trips", "digest": DIGEST, "runs": 12345, "until": None, "revoked": False}]
    columns = {"name": "dataset", "digest": "application", "runs": "runs", "until": "until", "revoked": "revoked"}

    print_records(records, columns=columns, as_json=False)
    table = capsys.readouterr().out
    print_records(records, columns=columns, as_json=True)

    assert table.split("\n")[3].split() == ["trips", "0123456789ab…", "12345", "-", "no"]
    assert json.loads(capsys.readouterr().out) == records


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (DIGEST, "0123456789ab…"),
        (f"owner:{DIGEST}", "owner:0123456789ab…"),
        ("0123456789abcdef", "0123456789abcdef"),
        ("trips", "trips"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
    ],
)
def test_only_digests_and_ids_are_shortened(text: str, shown: str) -> None:
    assert short(text) == shown


def test_markup_in_data_is_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    print_records([{"name": "[red]x[/red]"}], columns={"name": "name"}, as_json=False)

    assert "[red]x[/red]" in capsys.readouterr().out


def test_a_counter_adds_up_and_in_a_pipe_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    with counting("encrypting", unit="rows") as counter:
        counter.add(3)
        counter.add(4)

    assert counter.total == 7
    assert capsys.readouterr().err == "encrypting …\n"


def test_what_others_wrote_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2J\u202eb\n\u00e9") == "a\\u001b[2J\\u202eb\\u000a\u00e9"
