"""Which TCB baselines this service verifies with: the vendor's evaluation data sets among its endorsements.

Source: Azure Attestation REST API 2025-06-01, `TcbBaselines_Get`; Intel PCS API, version 4, `tcbEvaluationDataNumber`.
"""

import logging
from collections.abc import Iterable, Iterator

from strongroom.attestation.endorsements.dcap import Tee
from strongroom.attestation.endorsements.tcb import TcbInfo, parse_tcb_info
from strongroom.base.encoding import Json
from strongroom.base.errors import FormatError

_log = logging.getLogger(__name__)


def tcb_baselines(tcb_infos: Iterable[str], *, tee: Tee) -> list[Json]:
    """Return the baselines of one kind of TEE as Azure lists them, the newest first.

    A platform is verified with the baseline of its own family's endorsements, so that each one listed is in force for
    some platform. The documents' signatures are checked when evidence is verified with them, not here.

    Args:
        tcb_infos: The TCB infos that are here, JSON text.
        tee: The kind of TEE.
    """
    dates: dict[int, str] = {}
    for info in _of_kind(tcb_infos, tee):
        newest = max(level.tcb_date for level in info.tcb_levels)
        dates[info.tcb_evaluation_data_number] = max(newest, dates.get(info.tcb_evaluation_data_number, ""))
    return [
        {
            "tcbIdentifier": str(number),
            "tcbEvaluationDataNumber": number,
            "tcbReleaseDate": dates[number],
            "isSelectedTcb": True,
        }
        for number in sorted(dates, reverse=True)
    ]


def _of_kind(tcb_infos: Iterable[str], tee: Tee) -> Iterator[TcbInfo]:
    for text in tcb_infos:
        try:
            info = parse_tcb_info(text)
        except FormatError:
            _log.warning("a TCB info that cannot be read")
            continue
        if info.id == tee:
            yield info
