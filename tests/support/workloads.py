"""A Kubernetes cluster that issues service accounts' tokens, as the key service sees it: no API, only its keys."""

import json
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from strongroom.base.encoding import canonical_json, to_b64url
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey
from strongroom.services.workloads import WorkloadIssuerSettings
from strongroom.wire.pod import TOKEN_LIFETIME_S, token_audience

CLUSTER_URL = "https://kubernetes.default.svc.cluster.local"
TEAM = "team-a"
DRIVER, EXECUTOR = f"system:serviceaccount:{TEAM}:driver", f"system:serviceaccount:{TEAM}:executor"


@dataclass(kw_only=True)
class FakeCluster:
    """A cluster.

    Attributes:
        issuer: As its tokens say it.
        key: What it signs them with.
        kid: What it calls that key.
        key_service: The identity that tokens are for, unless a test says otherwise.
    """

    key_service: str
    issuer: str = CLUSTER_URL
    key: SigningKey = field(default_factory=lambda: SigningKey.generate("ES256"))
    kid: str = "cluster-key"

    def jwks(self) -> str:
        return json.dumps({"keys": [{**self.key.verifying_key.to_jwk(), "kid": self.kid, "use": "sig"}]})

    def settings(self, **changed: Any) -> WorkloadIssuerSettings:
        return WorkloadIssuerSettings(**{"issuer": self.issuer, "jwks": self.jwks(), **changed})

    def claims(self, subject: str = DRIVER, *, now: datetime, **changed: Any) -> dict[str, Any]:
        """What the API server writes into a token that is projected into a pod."""
        issued = int(now.timestamp())
        namespace, name = subject.split(":")[2:]
        return {
            "aud": [token_audience(self.key_service)],
            "exp": issued + TOKEN_LIFETIME_S,
            "iat": issued,
            "iss": self.issuer,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": {
                "namespace": namespace,
                "node": {"name": "node-1", "uid": str(uuid.uuid4())},
                "pod": {"name": f"{name}-pod", "uid": str(uuid.uuid4())},
                "serviceaccount": {"name": name, "uid": str(uuid.uuid4())},
            },
            "nbf": issued,
            "sub": subject,
            **changed,
        }

    def token(
        self,
        subject: str = DRIVER,
        *,
        now: datetime,
        key: SigningKey | None = None,
        header: dict[str, Any] | None = None,
        **changed: Any,
    ) -> str:
        """A token; `changed` are claims, `key` and `header` what else a test may get wrong."""
        payload = json.dumps(self.claims(subject, now=now, **changed)).encode()
        named = {"kid": self.kid, **(header or {})}
        said = {name: value for name, value in named.items() if value is not None}
        return sign_jws(payload, key=key or self.key, header=said)

    def unsigned(self, subject: str = DRIVER, *, now: datetime, algorithm: str = "none") -> str:
        """A token that nobody signed."""
        header = to_b64url(canonical_json({"alg": algorithm, "kid": self.kid}))
        return f"{header}.{to_b64url(canonical_json(self.claims(subject, now=now)))}."
