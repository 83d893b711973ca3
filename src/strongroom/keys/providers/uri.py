"""The addresses of master keys: strict readers, so that a misspelt part is an error and never ignored."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from strongroom.base.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAddress:
    """`SCHEME://HOST[:PORT]/SEGMENT/…?NAME=VALUE&…`.

    Attributes:
        host: Host and port, as written.
        path: The path's segments.
        options: The query's parameters.
    """

    host: str
    path: tuple[str, ...]
    options: Mapping[str, str]

    def file(self, name: str) -> Path:
        """Return a parameter that names a file.

        Raises:
            ConfigurationError: It is missing, or no absolute path.
        """
        path = self.options.get(name, "").removeprefix("file:")
        return absolute_path(path, name=name)


def parse_service_address(uri: str, *, form: str, options: Collection[str]) -> ServiceAddress:
    """Read the address of a master key at a service.

    Args:
        uri: The address.
        form: How such an address looks, for the error.
        options: The parameters there are.

    Raises:
        ConfigurationError: Not of that form, user or fragment included, an unknown parameter, or one given twice.
    """
    demand_plain(uri, form=form)
    try:
        parts = urlsplit(uri)
        fits = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError as error:
        raise ConfigurationError(f"the master key's address must be {form}") from error
    segments = tuple(unquote(segment) for segment in parts.path.split("/")[1:])
    if not fits or not segments or not all(_is_name(segment) for segment in segments):
        raise ConfigurationError(f"the master key's address must be {form}")
    return ServiceAddress(
        host=parts.netloc, path=segments, options=parse_options(parts.query, names=options, separator="&")
    )


def demand_plain(uri: str, *, form: str) -> None:
    """Refuse an address of other than printable ASCII characters, or with a fragment.

    Raises:
        ConfigurationError: It is one.
    """
    if not uri.isascii() or not uri.isprintable() or "#" in uri:
        raise ConfigurationError(
            f"the master key's address must be {form}", action="Write other characters percent-encoded (%20)."
        )


def parse_options(text: str, *, names: Collection[str], separator: str) -> dict[str, str]:
    """Read `NAME=VALUE` parts, percent-encoded.

    Raises:
        ConfigurationError: An unknown name, one given twice, or one without a value.
    """
    found: dict[str, str] = {}
    for part in text.split(separator) if text else []:
        name, _, value = part.partition("=")
        if name not in names or name in found or not value:
            raise ConfigurationError(
                f"the master key's address has an unknown, repeated or empty part {name!r}",
                action=f"It may have: {', '.join(sorted(names))}.",
            )
        found[name] = unquote(value)
    return found


def absolute_path(text: str, *, name: str) -> Path:
    """Return a part of an address as a path.

    Raises:
        ConfigurationError: It is not an absolute path.
    """
    path = Path(text)
    if not path.is_absolute() or "\0" in text:
        raise ConfigurationError(f"the master key's address must name an absolute path as {name}")
    return path


def _is_name(segment: str) -> bool:
    plain = segment.replace("-", "").replace("_", "").replace(".", "")
    return plain.isascii() and plain.isalnum() and segment.strip(".") != ""
