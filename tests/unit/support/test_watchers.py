"""The watches see what is there for a moment only."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.support.leaks import LeakSearch
from tests.support.needles import needles_of
from tests.support.watchers import FolderWatch, PacketWatch, ProcessWatch, demand_packet_capture, tcp_streams

CANARY = "canary-of-the-watches"
SEARCH = LeakSearch(needles_of("canary", CANARY))


def test_a_file_that_is_there_for_a_moment_is_searched(tmp_path: Path) -> None:
    place = tmp_path / "seen" / "deep"
    place.mkdir(parents=True)
    with FolderWatch({"seen": tmp_path / "seen"}, vault=tmp_path / "vault", every_s=0.01) as watch:
        (place / "a").write_text(CANARY)
        time.sleep(0.2)
        (place / "a").unlink()

    (leak,) = watch.search(SEARCH)
    assert leak.place == "seen/deep/a"


def test_each_state_of_a_file_is_searched(tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    with FolderWatch({"seen": tmp_path / "seen"}, vault=tmp_path / "vault", every_s=0.01) as watch:
        for text in ("first", CANARY, "third, the last"):
            (tmp_path / "seen" / "a").write_text(text)
            time.sleep(0.2)

    assert len(watch.search(SEARCH)) == 1


def test_a_file_name_is_searched_too(tmp_path: Path) -> None:
    (tmp_path / CANARY).write_text("empty words")
    with FolderWatch({"seen": tmp_path}, vault=tmp_path / "vault") as watch:
        pass

    assert [leak.place for leak in watch.search(SEARCH)] == ["file names"]


def test_what_is_left_out_is_not_searched(tmp_path: Path) -> None:
    for name in ("old", "out", "new"):
        (tmp_path / name).mkdir()
    (tmp_path / "old" / "a").write_text(CANARY)
    with FolderWatch({"all": tmp_path}, vault=tmp_path / "v", without=[tmp_path / "out"], only_new=True) as watch:
        (tmp_path / "out" / "a").write_text(CANARY)
        (tmp_path / "new" / "a").write_text(CANARY)

    assert [leak.place for leak in watch.search(SEARCH)] == ["all/new/a"]


@pytest.mark.parametrize("where", ["argument", "environment"])
def test_a_process_that_is_there_for_a_moment_is_searched(where: str) -> None:
    with ProcessWatch(every_s=0.01) as watch:
        process(CANARY if where == "argument" else "", {"CANARY": CANARY} if where == "environment" else {})

    (leak,) = watch.search(SEARCH)
    assert leak.place.startswith("command line" if where == "argument" else "environment")


@pytest.mark.parametrize("name", ["STRONGROOM_SCRATCH", "STRONGROOM_SOCKET"])
def test_only_the_environment_of_a_process_in_a_tee_is_its_own(name: str) -> None:
    with ProcessWatch(every_s=0.01) as watch:
        process("", {name: "/x", "CANARY": CANARY})
        process(CANARY, {name: "/x"})

    assert [leak.place.split(" of ")[0] for leak in watch.search(SEARCH)] == ["command line"]


def process(argument: str, environment: dict[str, str]) -> None:
    subprocess.run([sys.executable, "-c", "import time; time.sleep(0.5)", argument], env=environment, check=True)


def test_what_is_sent_over_loopback_is_searched_across_packets(tmp_path: Path) -> None:
    demand_packet_capture()
    with PacketWatch(tmp_path / "packets") as watch, socket.create_server(("127.0.0.1", 0)) as server:
        reader = threading.Thread(target=receive_all, args=[server])
        reader.start()
        with socket.create_connection(server.getsockname()) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(CANARY[:9].encode())
            time.sleep(0.05)
            client.sendall(CANARY[9:].encode())
        reader.join()

    assert CANARY.encode() not in (tmp_path / "packets").read_bytes()
    (leak,) = watch.search(SEARCH)
    assert leak.place.startswith("loopback 7f000001:")


def receive_all(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        while connection.recv(1000):
            pass


def test_a_datagram_is_searched(tmp_path: Path) -> None:
    demand_packet_capture()
    with PacketWatch(tmp_path / "packets") as watch, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(CANARY.encode(), ("127.0.0.1", 9))

    assert [leak.place for leak in watch.search(SEARCH)] == ["loopback other packets"]


def test_segments_are_put_in_order_and_repetitions_dropped() -> None:
    segments = [(2**32 - 3, b"abc"), (3, b"ghi"), (0, b"def"), (0, b"def"), (2, b"fg")]

    streams = tcp_streams(segment(sequence, payload) for sequence, payload in segments)
    assert list(streams.values()) == [b"abcdefghi", b""]


def segment(sequence: int, payload: bytes) -> bytes:
    tcp = bytes([0, 80, 1, 187]) + sequence.to_bytes(4, "big") + bytes(4) + b"\x50" + bytes(7) + payload
    ip = b"\x45\x00" + (20 + len(tcp)).to_bytes(2, "big") + bytes(5) + b"\x06" + bytes(2) + bytes([127, 0, 0, 1] * 2)
    return bytes(12) + b"\x08\x00" + ip + tcp


def test_without_root_a_test_is_left_out_except_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs root"):
        demand_packet_capture()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no test is left out"):
        demand_packet_capture()
