"""The cache over a real server on 127.0.0.1: in time, late, down, slow, and after a crash."""

import json
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.amd import amd_bench
from tests.support.platform import NOW, Bench
from tests.support.vendor_server import SettableClock, Vendors, VendorServer, serving

from strongroom.attestation.endorsements.documents import (
    AmdCrlName,
    DocumentName,
    DocumentSource,
    Entry,
    Found,
    PckCrlName,
    RootCaCrlName,
    TcbInfoName,
    VcekName,
)
from strongroom.attestation.endorsements.tcb import parse_tcb_info
from strongroom.base.errors import ConfigurationError, FormatError, NotFoundError, StrongroomError, UnavailableError
from strongroom.clients.amd_kds import KdsClient
from strongroom.clients.intel_pcs import PcsClient
from strongroom.services.endorsement_cache import DocumentCache, StalenessLimits, read_entries
from strongroom.services.endorsement_sources import VendorDocuments

VENDORS = Vendors.new(SettableClock())
FMSPC = VENDORS.fmspc
TCB = TcbInfoName(tee="SGX", fmspc=FMSPC)
CRL = RootCaCrlName()
LIMITS = StalenessLimits(fresh_for_s=3600, usable_for_s=3 * 3600, retry_after_s=60, patience_s=20)


class Setting:
    """A cache, its clock, and the vendors behind it."""

    def __init__(self, folder: Path, server: VendorServer) -> None:
        self.folder, self.server, self.clock = folder, server, server.vendors.clock
        self.cache = self.start()

    def source(self) -> DocumentSource:
        https = self.server.https(total_s=10)
        return VendorDocuments(intel=PcsClient(https, clock=self.clock), amd=KdsClient(https, clock=self.clock))

    def start(self, **changed: Any) -> DocumentCache:
        options: dict[str, Any] = {"source": self.source(), "limits": LIMITS} | changed
        return DocumentCache(self.folder, trusted_roots=VENDORS.roots, clock=self.clock, **options)

    def file(self, name: DocumentName) -> Path:
        return self.folder / f"{name.key}.json"

    def go_down(self) -> None:
        self.server.vendors.edit["/"] = lambda answer: replace(answer, status=503)

    def come_back(self) -> None:
        self.server.vendors.edit.clear()


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    vendors = replace(VENDORS, clock=SettableClock(), edit={}, signed={})
    with serving(vendors) as server:
        yield Setting(tmp_path / "cache", server)


def test_a_fresh_document_is_asked_for_once(setting: Setting) -> None:
    first = setting.cache.find(TCB)
    setting.clock.advance(minutes=59)
    assert setting.cache.find(TCB) == first == setting.start().find(TCB)
    assert (first.stale, first.fetched_at, len(setting.server.requests)) == (None, NOW, 1)


def test_whole_endorsements_come_from_the_cache(setting: Setting) -> None:
    bench = Bench.around(VENDORS.platform)
    for _ in range(2):
        assert bench.verify(endorsements=setting.cache.get(fmspc=FMSPC, ca="platform")).tcb_status == "UpToDate"
    assert len(setting.server.requests) == 4


def test_after_fresh_for_a_document_is_renewed(setting: Setting) -> None:
    setting.cache.find(TCB)
    setting.clock.advance(minutes=61)
    found = setting.cache.find(TCB)
    assert (found.stale, found.fetched_at) == (None, setting.clock.now())
    assert len(setting.server.requests) == 2


def test_a_source_that_is_down_is_forgiven_until_usable_for(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    first = setting.cache.find(TCB)
    setting.go_down()
    setting.clock.advance(hours=3)
    with caplog.at_level(logging.WARNING):
        found = setting.cache.find(TCB)
    assert (found.document, found.fetched_at) == (first.document, NOW)
    assert "503" in (found.stale or "")
    assert "was not renewed" in caplog.text
    setting.clock.advance(seconds=1)
    with pytest.raises(UnavailableError, match="no usable tcb-info"):
        setting.cache.find(TCB)
    with pytest.raises(UnavailableError, match="no usable tcb-info"):
        setting.start().find(TCB)
    setting.come_back()
    setting.clock.advance(seconds=60)
    assert setting.cache.find(TCB).stale is None


def test_no_document_is_used_past_its_own_end(setting: Setting) -> None:
    cache = setting.start(limits=StalenessLimits(fresh_for_s=10**9, usable_for_s=10**9, patience_s=0.3))
    end = parse_tcb_info(cache.find(TCB).document.content).next_update
    setting.go_down()
    setting.clock.time = type(NOW).fromisoformat(end)
    assert cache.find(TCB).stale is None
    setting.clock.advance(seconds=1)
    with pytest.raises(UnavailableError):
        cache.find(TCB)


def test_certificates_need_no_renewal_until_they_run_out(setting: Setting) -> None:
    name = VcekName.of(amd_bench().report(), "Milan")
    found = setting.cache.find(name)
    setting.go_down()
    setting.clock.advance(days=365)
    assert setting.cache.find(name) == found
    setting.clock.advance(days=3650)
    with pytest.raises(UnavailableError):
        setting.cache.find(name)


def test_a_source_that_failed_is_left_alone_for_a_while(setting: Setting) -> None:
    setting.go_down()
    for _ in range(3):
        with pytest.raises(UnavailableError, match="503"):
            setting.cache.find(TCB)
    assert len(setting.server.requests) == 1
    setting.clock.advance(seconds=61)
    setting.come_back()
    assert setting.cache.find(TCB).stale is None


def test_that_there_is_no_such_document_is_not_remembered_for_long(setting: Setting) -> None:
    name = TCB.model_copy(update={"fmspc": "0" * 12})
    for _ in range(3):
        with pytest.raises(NotFoundError):
            setting.cache.find(name)
    assert len(setting.server.requests) == 1
    setting.clock.advance(seconds=61)
    with pytest.raises(NotFoundError):
        setting.cache.find(name)
    assert len(setting.server.requests) == 2


def test_a_clock_that_was_set_back_makes_nothing_fresh(setting: Setting) -> None:
    setting.cache.find(TCB)
    setting.go_down()
    setting.clock.advance(hours=-2)
    with pytest.raises(UnavailableError):
        setting.cache.find(TCB)


def test_a_slow_source_does_not_hold_up_who_has_something_usable(setting: Setting) -> None:
    cache = setting.start(limits=LIMITS.model_copy(update={"patience_s": 0.2}))
    first = cache.find(TCB)
    setting.server.hold = True
    setting.clock.advance(hours=2)
    found = cache.find(TCB)
    assert (found.document, found.stale) == (first.document, "its source is slow")
    setting.server.release.set()
    setting.server.hold = False
    while cache._running:
        threading.Event().wait(0.01)
    assert cache.find(TCB).stale is None
    assert len(setting.server.requests) == 2


def test_many_who_ask_at_once_make_one_request(setting: Setting) -> None:
    setting.server.hold = True
    found: list[Found] = []
    threads = [threading.Thread(target=lambda: found.append(setting.cache.find(TCB))) for _ in range(8)]
    for thread in threads:
        thread.start()
    while not setting.server.requests:
        threading.Event().wait(0.01)
    setting.server.release.set()
    for thread in threads:
        thread.join()
    assert len(setting.server.requests) == 1
    assert len(found) == 8
    assert all(each == found[0] for each in found)


def test_too_many_documents_at_once_are_refused(setting: Setting) -> None:
    setting.server.hold = True
    names = [TCB.model_copy(update={"fmspc": f"{number:012x}"}) for number in range(16)]
    refusals: list[StrongroomError] = []

    def ask(name: TcbInfoName) -> None:
        try:
            setting.cache.find(name)
        except StrongroomError as error:
            refusals.append(error)

    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    while len(setting.cache._running) < 16:
        threading.Event().wait(0.01)
    with pytest.raises(UnavailableError, match="too many"):
        setting.cache.find(TCB)
    setting.server.release.set()
    for thread in threads:
        thread.join()
    assert {type(each) for each in refusals} == {NotFoundError}


def test_a_fault_in_a_source_is_an_error_for_all_who_wait(setting: Setting) -> None:
    class Broken(DocumentSource):
        def find(self, name: DocumentName) -> Found:
            raise RuntimeError(name.key)

    cache = setting.start(source=Broken())
    with pytest.raises(UnavailableError, match="was not renewed"):
        cache.find(TCB)
    assert cache._running == {}


def test_a_cache_behind_a_cache_goes_on_counting(setting: Setting) -> None:
    def aged(seconds: int) -> None:
        setting.server.vendors.edit["/"] = lambda answer: replace(
            answer, headers={**answer.headers, "Age": str(seconds)}
        )

    # Documents that were issued a while ago.
    setting.server.vendors.crl_age = setting.server.vendors.crl_age * 2
    aged(2 * 3600)
    found = setting.cache.find(CRL)
    assert found.stale == "its source has nothing newer"
    assert setting.cache.find(CRL).stale == "its source has nothing newer"
    assert len(setting.server.requests) == 1
    aged(4 * 3600)
    with pytest.raises(UnavailableError, match="too old"):
        setting.start(source=setting.source()).find(PckCrlName(ca="platform"))


def test_renewing_asks_the_source_however_fresh_a_document_is(setting: Setting) -> None:
    setting.cache.find(TCB)
    setting.cache.renew(TCB)
    assert len(setting.server.requests) == 2
    setting.go_down()
    with pytest.raises(UnavailableError, match="503"):
        setting.cache.renew(TCB)
    assert setting.cache.find(TCB).stale is None


# --- the folder --------------------------------------------------------------------------------------------------


def test_the_folder_is_its_owners_alone(setting: Setting) -> None:
    setting.cache.find(TCB)
    assert stat.S_IMODE(setting.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in setting.folder.iterdir()} == {0o600}
    setting.folder.chmod(0o755)
    with pytest.raises(ConfigurationError, match="open to others"):
        setting.start()


def test_a_cache_without_a_source_holds_what_was_put_there(setting: Setting, tmp_path: Path) -> None:
    setting.cache.find(TCB)
    offline = setting.start(source=None)
    assert offline.find(TCB).stale is None
    with pytest.raises(NotFoundError, match="no source"):
        offline.find(CRL)
    setting.clock.advance(hours=2)
    assert "no source" in (offline.find(TCB).stale or "")
    setting.start().find(TCB)  # somebody brings a newer one
    assert offline.find(TCB).stale is None
    setting.clock.advance(hours=4)
    with pytest.raises(StrongroomError):
        offline.find(TCB)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[]", b'{"version":1}'])
def test_a_damaged_file_is_no_file(setting: Setting, content: bytes) -> None:
    found = setting.cache.find(TCB)
    setting.file(TCB).write_bytes(content)
    again = setting.start().find(TCB)
    assert (again.document.content, again.stale) == (found.document.content, None)
    assert len(setting.server.requests) == 2


def test_a_file_that_was_tampered_with_or_is_another_one_is_no_file(setting: Setting) -> None:
    setting.cache.find(TCB)
    setting.cache.find(CRL)
    stored = json.loads(setting.file(TCB).read_bytes())
    stored["document"]["content"] = stored["document"]["content"].replace("UpToDate", "OutOfDate")
    setting.file(TCB).write_text(json.dumps(stored))
    setting.file(CRL).write_bytes(setting.file(TCB).read_bytes())
    fresh = setting.start()
    assert "UpToDate" in fresh.find(TCB).document.content
    fresh.find(CRL)
    assert len(setting.server.requests) == 4


def test_a_file_under_another_documents_name_is_no_file(setting: Setting) -> None:
    early = TCB.model_copy(update={"edition": "early"})
    assert parse_tcb_info(setting.cache.find(early).document.content).tcb_evaluation_data_number == 18
    setting.file(early).rename(setting.file(TCB))
    assert parse_tcb_info(setting.start().find(TCB).document.content).tcb_evaluation_data_number == 17


def test_the_oldest_chips_make_room(setting: Setting) -> None:
    cache = setting.start(limits=LIMITS.model_copy(update={"documents": 4}))
    chip = VcekName.of(amd_bench().report(), "Milan")
    chips = [chip.model_copy(update={"microcode": number}) for number in range(3)]
    cache.find(CRL)
    cache.find(AmdCrlName(signing_key="VCEK", product="Milan"))
    for number, name in enumerate(chips):
        cache.find(name)
        os.utime(setting.file(name), (number, number))
    assert [setting.file(name).exists() for name in chips] == [False, True, True]
    assert len(cache._known) == 4
    cache.find(TCB)
    cache.find(PckCrlName(ca="platform"))
    with pytest.raises(UnavailableError, match="full"):
        cache.find(TcbInfoName(tee="TDX", fmspc=FMSPC))


def test_entries_are_read_for_people(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_entries(tmp_path / "nothing")
    setting.cache.find(TCB)
    setting.cache.find(CRL)
    assert [entry.name for entry in read_entries(setting.folder)] == [CRL, TCB]
    setting.file(CRL).write_bytes(b"{}")
    with pytest.raises(FormatError):
        read_entries(setting.folder)


def test_a_kill_between_write_and_rename_leaves_the_old_document(setting: Setting) -> None:
    old = setting.cache.find(TCB)
    entry = json.loads(setting.file(TCB).read_bytes())
    entry["document"]["content"] = "half of another"
    program = (
        "import os, signal, sys; from pathlib import Path; from strongroom.services.files import replace_file\n"
        "Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "replace_file(Path(sys.argv[1]), sys.argv[2].encode())\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program, str(setting.file(TCB)), json.dumps(entry)], check=False, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    assert setting.file(TCB).with_name(f".{setting.file(TCB).name}.partial").exists()
    fresh = setting.start()
    assert fresh.find(TCB) == old
    assert [each.name for each in read_entries(setting.folder)] == [TCB]
    setting.clock.advance(hours=2)
    assert fresh.find(TCB).stale is None
    assert Entry.from_json(setting.file(TCB).read_bytes()).document == fresh.find(TCB).document


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(FormatError, match="at least fresh_for_s"):
        StalenessLimits.from_object({"fresh_for_s": 2, "usable_for_s": 1})
