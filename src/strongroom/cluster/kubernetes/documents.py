"""YAML as people write it for Kubernetes, and as `kubectl apply` reads it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from strongroom.base.errors import ConfigurationError
from strongroom.base.workflow import Step
from strongroom.cluster.kubernetes.template import Manifest

_MAX_BYTES: Final = 1 << 20
_INSTALL: Final = "install Strongroom with its extra: pip install strongroom[kubernetes]"


def read_template(path: Path) -> Manifest:
    """Read a pod template, as `spark-submit` takes it.

    Raises:
        ConfigurationError: It cannot be read, or is not one YAML object.
    """
    try:
        text = path.read_bytes()[: _MAX_BYTES + 1]
    except OSError as error:
        raise ConfigurationError(
            f"the pod template {path} cannot be read: {error.strerror}", action="check the path", step=Step.SUBMIT
        ) from error
    return parse_yaml(text, what=f"the pod template {path}")


def parse_yaml(text: bytes, *, what: str) -> Manifest:
    """Read one YAML object.

    Raises:
        ConfigurationError: It is not one, or too large.
    """
    yaml = _yaml()
    try:
        value = yaml.safe_load(text) if len(text) <= _MAX_BYTES else None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigurationError(f"{what} is not YAML", action="check it", step=Step.SUBMIT) from error
    if not isinstance(value, dict):
        raise ConfigurationError(f"{what} is not one object", action="check it", step=Step.SUBMIT)
    return value


def yaml_text(documents: Iterable[Manifest]) -> str:
    """Return objects as YAML documents, in the order of their members."""
    dumped = _yaml().safe_dump_all(documents, sort_keys=False, allow_unicode=True, width=120, explicit_start=True)
    return str(dumped)


def _yaml() -> Any:  # noqa: ANN401 - a module without types
    try:
        import yaml  # noqa: PLC0415 - comes with the extra
    except ImportError as error:
        raise ConfigurationError("PyYAML is not installed", action=_INSTALL) from error
    return yaml
