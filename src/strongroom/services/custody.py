"""A key service that is locked: it proves what it is, takes its custodians' shares, and refuses everything else.

Its own identity is sealed by the master key, so that it has none yet: TLS is by a key of this start that nobody vouches
for. Custodians trust the quote over the sealing key, and shares are readable to that key alone.
"""

import logging
import threading
from datetime import timedelta
from typing import Final

from starlette.applications import Starlette

from strongroom.base.clock import Clock
from strongroom.base.encoding import to_b64url
from strongroom.base.errors import FormatError, IntegrityError, UnavailableError, VerificationError
from strongroom.crypto import x509
from strongroom.crypto.jose import unseal
from strongroom.crypto.keys import ReceivingKey, SigningKey
from strongroom.keys.custody import ShareCollector, roster_digest
from strongroom.keys.providers.local import LocalMasterKey
from strongroom.services.errors import Reply, strongroom_error
from strongroom.services.evidence import MAX_NONCE, Platform
from strongroom.services.http import Call, application, endpoint, json_reply
from strongroom.services.identity import Authority, CertifiedKey
from strongroom.wire.custody import (
    CustodyEvidence,
    CustodyProgress,
    CustodyRoster,
    CustodyStatement,
    GivenShare,
    sealing_context,
)

CUSTODY_PATH: Final = "/strongroom/v1/custody"
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_MAX_SHARE_BYTES: Final = 16 << 10
_TLS_LIFETIME: Final = timedelta(days=397)
_BACKDATED: Final = timedelta(hours=1)
_log = logging.getLogger(__name__)


class LockedService:
    """A key service from its start until enough custodians unlocked it. Threads may share it.

    Args:
        roster: Who holds what.
        configuration: Digest of the effective configuration, the roster's digest included.
        platform: What quotes this process.
    """

    def __init__(self, *, roster: CustodyRoster, configuration: str, platform: Platform) -> None:
        self._roster = roster
        self._digest = roster_digest(roster)
        self._configuration = configuration
        self._platform = platform
        self._key = ReceivingKey.generate_rsa()
        self._lock = threading.Lock()
        self._collector = ShareCollector(roster)
        self._master_key: LocalMasterKey | None = None

    @property
    def master_key(self) -> LocalMasterKey | None:
        """The master key, once there were enough shares."""
        return self._master_key

    def app(self) -> Starlette:
        """Return the endpoints of a locked service."""
        routes = [
            endpoint(CUSTODY_PATH, self.evidence, errors=strongroom_error),
            endpoint(
                CUSTODY_PATH, self.give, methods=("POST",), errors=strongroom_error, max_body_bytes=_MAX_SHARE_BYTES
            ),
            endpoint("/healthz", self.health, errors=strongroom_error),
            endpoint("/{path:path}", self.refuse, methods=_METHODS, errors=strongroom_error),
        ]
        return application(routes, shape_for=lambda _path: strongroom_error)

    def evidence(self, call: Call) -> Reply:
        """Prove what this process is, and show the key that shares are sealed to.

        Raises:
            FormatError: The nonce is missing, empty or too long.
            UnavailableError: The platform does not answer.
        """
        nonce = call.required("nonce")
        if not 0 < len(nonce) <= MAX_NONCE:
            raise FormatError(f"a nonce has 1 to {MAX_NONCE} characters")
        statement = CustodyStatement(
            service="key-service",
            mode="attested",
            configuration=self._configuration,
            roster=self._digest,
            sealing_key=self._key.public_jwk,
            nonce=nonce,
        ).to_json()
        quote, endorsements = self._platform.quote(statement)
        return json_reply(
            CustodyEvidence(
                statement=to_b64url(statement),
                quote=quote,
                endorsements=endorsements,
                roster=self._roster,
                given=self._given(),
            )
        )

    def give(self, call: Call) -> Reply:
        """Take a custodian's share.

        Raises:
            FormatError: Not a share.
            VerificationError: Sealed to another service or start, forged, or of another master key.
            ConflictError: It is there already.
        """
        sealed = GivenShare.from_json(call.body).sealed
        context = sealing_context(roster=self._digest, configuration=self._configuration)
        try:
            share = unseal(sealed, key=self._key, context=context)
        except (FormatError, IntegrityError, VerificationError) as error:
            raise VerificationError(
                "the share is sealed to another service, or to one that has been started anew since",
                action="Unlock again: each start has a key of its own.",
            ) from error
        with self._lock:
            if self._master_key is None:
                self._master_key = self._collector.add(share)
            unlocked = self._master_key is not None
            given = self._collector.given
        _log.info("a custodian's share was given", extra={"fields": {"given": list(given), "unlocked": unlocked}})
        return json_reply(CustodyProgress(needed=self._roster.threshold, given=given, unlocked=unlocked))

    def health(self, _call: Call) -> Reply:
        """Say that the service is not ready, and what it waits for."""
        needed = self._roster.threshold
        reply = json_reply(
            {
                "status": "locked",
                "service": "key-service",
                "mode": "attested",
                "needed": needed,
                "given": list(self._given()),
            }
        )
        return Reply(body=reply.body, status=503)

    def refuse(self, _call: Call) -> Reply:
        """Refuse everything else, and say what to do.

        Raises:
            UnavailableError: Always.
        """
        missing = self._roster.threshold - len(self._given())
        raise UnavailableError(
            "the key service is locked: it was started, and its custodians have not unlocked it yet",
            action=f"Have {missing} more of its custodians run: strongroom custody unlock",
        )

    def _given(self) -> tuple[int, ...]:
        with self._lock:
            return self._collector.given


def certificate_of_this_start(*, common_name: str, sans: tuple[str, ...], clock: Clock) -> CertifiedKey:
    """Return a TLS key and a certificate under an issuer whose key is gone at once: they carry bytes, no trust."""
    now, issuer = clock.now(), SigningKey.generate("ES256")
    certificate = x509.new_identity(
        common_name=common_name, key=issuer, not_before=now - _BACKDATED, not_after=now + _TLS_LIFETIME
    )
    authority = Authority(key=issuer, certificate_der=certificate, common_name=common_name, sans=sans)
    return authority.certify(SigningKey.generate("ES256"), usage=x509.LeafUsage.TLS, now=now)
