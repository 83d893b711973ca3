"""Options and argument types that several commands share."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem
from typing_extensions import override

from strongroom.base.clock import to_rfc3339
from strongroom.base.errors import FormatError
from strongroom.cli.completion import complete_datasets, complete_partners
from strongroom.cli.state import find_state
from strongroom.policy.workloads import WorkloadDemand

_Command = TypeVar("_Command", bound=Callable[..., Any])
_PLAIN_NAME: Final = r"lower-case letters, digits and inner hyphens, at most 63"
_MAX_DIGITS: Final = 15


def _to_state(_context: click.Context, _option: click.Parameter, value: Path | None) -> object:
    return find_state(value)


def state_option(command: _Command) -> _Command:
    """Add `--state DIR`; the command receives a `State`."""
    return click.option(
        "--state",
        type=click.Path(file_okay=False, path_type=Path),
        callback=_to_state,
        metavar="DIR",
        help="The installation's folder.  [default: $STRONGROOM_STATE, else ~/.local/share/strongroom]",
    )(command)


def json_option(command: _Command) -> _Command:
    """Add `--json`; the command receives `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)


class _PlainName(click.ParamType[str]):
    """A name as in an address.

    Args:
        what: Whose name it is.
    """

    name = "NAME"

    def __init__(self, what: str) -> None:
        self._what = what

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        inner = text.replace("-", "")
        plain = inner.isascii() and inner.isalnum() and inner == inner.lower()
        if not plain or text.startswith("-") or text.endswith("-") or len(text) > 63:  # noqa: PLR2004 - as DNS labels
            self.fail(f"{text!r} is no {self._what}'s name: {_PLAIN_NAME}", param, ctx)
        return text


class DatasetName(_PlainName):
    """A dataset's name."""

    def __init__(self) -> None:
        super().__init__("dataset")

    @override
    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return complete_datasets(ctx, incomplete)


class PartnerName(_PlainName):
    """What a trust file calls another owner."""

    name = "PARTNER"

    def __init__(self) -> None:
        super().__init__("partner")

    @override
    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return complete_partners(ctx, incomplete)


class ProviderUrl(click.ParamType[str]):
    """The address of a provider of Azure Attestation, spelled as its results name their issuer."""

    name = "URL"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).removesuffix("/").lower()
        if not re.fullmatch(r"https://[a-z0-9.-]+(:[0-9]{1,5})?", text):
            self.fail(f"{value!r} is no provider's address: write https://NAME.REGION.attest.azure.net", param, ctx)
        return text


class PartnerOrProvider(PartnerName):
    """Another owner, by what a trust file calls it, or a provider of Azure Attestation, by its address."""

    name = "PARTNER|URL"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if str(value).startswith("https://"):
            return PROVIDER_URL.convert(value, param, ctx)
        return super().convert(value, param, ctx)


DATASET_NAME: Final = DatasetName()
PARTNER_NAME: Final = PartnerName()
PROVIDER_URL: Final = ProviderUrl()
PARTNER_OR_PROVIDER: Final = PartnerOrProvider()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Whose a dataset is, and where its ciphertext lies.

    Attributes:
        partner: What the trust file calls its owner; None: one's own.
        location: A folder or URI; None: the installation's own storage.
    """

    partner: str | None = None
    location: str | None = None


class PlacedDataset(click.ParamType[tuple[str, Placed]]):
    """`NAME[@PARTNER][=LOCATION]`; `NAME` alone stands for one's own dataset in the installation's own storage."""

    name = "NAME[@PARTNER][=LOCATION]"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Placed]:
        if isinstance(value, tuple):
            return value
        whose, equals, location = str(value).partition("=")
        if equals and not location:
            self.fail(f"{value!r} names no location after the equals sign", param, ctx)
        name, at, partner = whose.partition("@")
        if at:
            partner = PARTNER_NAME.convert(partner, param, ctx)
        return DATASET_NAME.convert(name, param, ctx), Placed(partner=partner or None, location=location or None)

    @override
    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [] if "=" in incomplete else complete_datasets(ctx, incomplete)


class VaultOf(click.ParamType[tuple[str, Path]]):
    """`NAME=FILE`: a dataset, and the file that says which vault's key it is under (`strongroom vault describe`)."""

    name = "NAME=FILE"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:
        if isinstance(value, tuple):
            return value
        name, _, file = str(value).partition("=")
        if not file:
            self.fail(f"{value!r} is not of the form NAME=FILE", param, ctx)
        return DatasetName().convert(name, param, ctx), Path(file)


class VersionOf(click.ParamType[tuple[str, int]]):
    """`NAME=N`: a version of a dataset."""

    name = "NAME=N"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        name, _, number = str(value).partition("=")
        if not _is_version(number):
            self.fail(f"{value!r} is not of the form NAME=N", param, ctx)
        return DatasetName().convert(name, param, ctx), int(number)


class Setting(click.ParamType[tuple[str, str]]):
    """`PROPERTY=VALUE`, as `spark-submit --conf` takes it."""

    name = "PROP=VALUE"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not of the form PROP=VALUE", param, ctx)
        return name, text


class Memory(click.ParamType[int]):
    """An amount of memory as Spark writes it (`600m`, `2g`; a bare number is MiB), in MiB."""

    name = "MEMORY"

    _MIB: Final = {"m": 1, "mb": 1, "g": 1 << 10, "gb": 1 << 10, "t": 1 << 20, "tb": 1 << 20, "": 1}

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value).strip().lower()
        digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = text[len(digits) :]
        if not (digits.isascii() and digits.isdigit()) or unit not in self._MIB:
            self.fail(f"{value!r} is no amount of memory; write 600m or 2g", param, ctx)
        return int(digits) * self._MIB[unit]


class FileList(click.ParamType[tuple[str, ...]]):
    """File names separated by commas, as `spark-submit` takes them."""

    name = "FILES"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(part.strip() for part in str(value).split(",") if part.strip())


class NameList(click.ParamType[tuple[str, ...]]):
    """Names separated by commas."""

    name = "NAMES"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(part.strip() for part in str(value).split(","))
        if not all(names):
            self.fail(f"{value!r} holds an empty name", param, ctx)
        return names


class UntilDate(click.ParamType[str]):
    """A day (its end, UTC) or a moment, as RFC 3339 text in UTC."""

    name = "DATE"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no date; write 2026-12-31 or 2026-12-31T18:00:00Z", param, ctx)
        if len(str(value)) == len("2026-12-31"):
            moment = datetime.combine(moment.date(), time(23, 59, 59))
        return to_rfc3339(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


class Moment(click.ParamType[datetime]):
    """A moment: RFC 3339 text, or a day for its beginning; UTC where it names no zone."""

    name = "TIME"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(str(value))
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time; write 2026-12-31 or 2026-12-31T18:00:00Z", param, ctx)


def _is_version(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS and int(text) > 0


class Duration(click.ParamType[int]):
    """A length of time (`90s`, `30m`, `2h`, `1d`; a bare number is seconds), in seconds."""

    name = "DURATION"

    _SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 24 * 3600}

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value).strip().lower()
        digits = text.rstrip("smhd")
        unit = text[len(digits) :]
        if not (digits.isascii() and digits.isdigit()) or len(digits) > _MAX_DIGITS or unit not in self._SECONDS:
            self.fail(f"{value!r} is no length of time; write 90s, 30m, 2h or 1d", param, ctx)
        return int(digits) * self._SECONDS[unit]


class VersionRange(click.ParamType[tuple[int, int | None]]):
    """Versions of a dataset: `4`, `2-4`, or `2-` without an end."""

    name = "N|N-M|N-"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int | None]:
        if isinstance(value, tuple):
            return value
        first, dash, last = str(value).partition("-")
        numbers = [text for text in (first, last) if text]
        if not first or not all(_is_version(text) for text in numbers):
            self.fail(f"{value!r} names no versions; write 4, 2-4 or 2-", param, ctx)
        end = int(last) if last else None if dash else int(first)
        if end is not None and end < int(first):
            self.fail(f"{value!r} ends before it begins", param, ctx)
        return int(first), end


class WorkloadOf(click.ParamType[WorkloadDemand]):
    """A service account of a cluster: `NAMESPACE/NAME@ISSUER`, for one role `driver=…` or `executor=…`."""

    name = "[ROLE=]NAMESPACE/NAME@ISSUER"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> WorkloadDemand:
        if isinstance(value, WorkloadDemand):
            return value
        account, _, issuer = str(value).partition("@")
        role, equals, named = account.partition("=")
        namespace, _, name = (named if equals else account).partition("/")
        subject = f"system:serviceaccount:{namespace}:{name}"
        try:
            return WorkloadDemand.from_object({"issuer": issuer, "subject": subject, "role": role if equals else None})
        except FormatError:
            self.fail(
                f"{value!r} names no service account; write team-a/spark-driver@https://ISSUER, or driver=… or "
                "executor=… before it",
                param,
                ctx,
            )
