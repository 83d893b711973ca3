"""The eight steps of a run, named once.

Errors, log records, progress lines, benchmark phases and receipts all carry a `Step`.
"""

from enum import Enum


class Step(Enum):
    """One of the eight steps, in order."""

    SUBMIT = (1, "submit", "pack the application and sign the run ticket")
    POLICY = (2, "policy", "verify the services and the policies they hold")
    EXECUTORS = (3, "executors", "ask for executors")
    ATTEST = (4, "attest", "prove what runs")
    RELEASE = (5, "release", "receive keys")
    DECRYPT = (6, "decrypt", "read the encrypted input")
    COMPUTE = (7, "compute", "run the application")
    WRITE = (8, "write", "encrypt the results and close the run")

    def __init__(self, number: int, slug: str, summary: str) -> None:
        self.number = number
        self.slug = slug
        self.summary = summary

    @classmethod
    def from_slug(cls, slug: str) -> "Step | None":
        """Return the step with this slug, or None."""
        return next((step for step in cls if step.slug == slug), None)
