"""Who a person is, and what he may do at a service."""

from enum import StrEnum


class Role(StrEnum):
    """What a person may do. Roles are held side by side; none implies another.

    Attributes:
        OWNER: Has datasets: makes and fills them, opens them, approves and revokes, has keys.
        APPROVER: Approves and revokes for datasets whose roster names him; sees nothing that is in them.
        SUBMITTER: Signs run tickets; sees his own runs.
        AUDITOR: Sees everything that is not secret, the whole log too, and changes nothing.
    """

    OWNER = "owner"
    APPROVER = "approver"
    SUBMITTER = "submitter"
    AUDITOR = "auditor"
