"""What a TEE says about itself, hashed into its evidence.

The exact bytes are hashed into the quote's report data and come back in the attestation result as
`x-ms-runtime`, so that release policies can name every field.
"""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from strongroom.wire.model import Hex32, Message

Role = Literal["driver", "executor"]


class RuntimeData(Message):
    """The runtime data of a driver's or an executor's TEE.

    Attributes:
        application: Digest of the application that the agent measured.
        run: Digest of the run ticket.
        nonces: A fresh nonce of each key service, by the service's identity.
        keys: Exactly one: the TEE's ephemeral RSA key (`key_ops: ["encrypt"]`), to which secrets are sealed.
        signing_key: JWK of the TEE's ephemeral P-256 key, which signs its requests.
        driver_key: For executors: thumbprint of the driver's signing key.
    """

    version: Literal[1] = 1
    application: Hex32
    role: Role
    run: Hex32
    nonces: dict[Hex32, str] = Field(min_length=1, max_length=16)
    keys: tuple[dict[str, Any], ...] = Field(min_length=1, max_length=1)
    signing_key: dict[str, str]
    driver_key: Hex32 | None = None

    @model_validator(mode="after")
    def _executors_name_their_driver(self) -> Self:
        if (self.role == "executor") != (self.driver_key is not None):
            msg = "an executor names its driver's key, a driver does not"
            raise ValueError(msg)
        return self
