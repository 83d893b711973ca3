"""SoftHSM2, a hardware security module in software: tokens in a folder of this test session."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

PIN: Final = "pin-92746153"
TOKENS: Final = ("strongroom", "another", "locked")
"""A module reads its folder once, when it is loaded: every token that a test uses is made before."""
_MODULES: Final = (
    "/usr/lib/softhsm/libsofthsm2.so",
    *(f"/usr/lib/{machine}-linux-gnu/softhsm/libsofthsm2.so" for machine in ("x86_64", "aarch64")),
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
)


class SoftHsm:
    """A module with tokens.

    Attributes:
        module: The library.
        pin_file: The users' PIN, owner-only.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens = folder / "tokens"
        self.tokens.mkdir()
        self.configuration = folder / "softhsm2.conf"
        self.configuration.write_text(
            f"directories.tokendir = {self.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        self.pin_file = folder / "pin"
        self.pin_file.write_text(f"{PIN}\n")
        self.pin_file.chmod(0o600)
        self.module = next(Path(module) for module in _MODULES if Path(module).exists())

    def make_token(self, label: str) -> None:
        command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", PIN]
        subprocess.run(command, check=True, capture_output=True, env=self.environment)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SOFTHSM2_CONF": str(self.configuration)}

    def uri(self, label: str, *, token: str = TOKENS[0], pin_file: Path | None = None) -> str:
        """Return the address of a key; `label` is its name in the token."""
        return (
            f"pkcs11:token={token};object={label}?module-path={self.module}&pin-source=file:{pin_file or self.pin_file}"
        )


@contextmanager
def softhsm(folder: Path) -> Iterator[SoftHsm]:
    """The tokens, and the environment in which this process's module finds them. Once a process: see `TOKENS`."""
    made = SoftHsm(folder)
    for label in TOKENS:
        made.make_token(label)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(made.configuration))
        yield made
