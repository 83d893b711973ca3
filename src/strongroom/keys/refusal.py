"""A refusal with two faces: what the refused may see, and everything, for those who answer for the dataset."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from strongroom.base.errors import Mismatch, RefusedError
from strongroom.base.workflow import Step
from strongroom.policy.disclosure import disclose

ASK_OWNER: Final = "Ask the data owner, who sees with `strongroom why` what differs from what was approved."


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What one approval lacks for what was asked.

    Attributes:
        dataset: The dataset; None where it is about the whole run.
        approval: The approval's id; None where there is none.
        mismatches: Everything that differs, with what was expected.
    """

    dataset: str | None
    approval: str | None
    mismatches: tuple[Mismatch, ...]


class ExplainedRefusalError(RefusedError):
    """A refusal whose message and mismatches are safe to show; `explained` is for owners alone.

    Args:
        message: One sentence, safe to show a peer.
        shown: What the refused may see of it once `disclose` has gone over it.
        explained: Everything.
        action: What the refused should do.
    """

    def __init__(
        self, message: str, *, shown: Sequence[Mismatch], explained: Sequence[Explained], action: str = ASK_OWNER
    ) -> None:
        super().__init__(message, action=action, step=Step.RELEASE, mismatches=disclose(shown))
        self.explained = tuple(explained)
