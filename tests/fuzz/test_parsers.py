"""Any bytes parse, or raise the errors that the parser's documentation names; what parses survives its own bytes."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fuzz.mutations import inputs
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

EXAMPLES = 150


@pytest.mark.filterwarnings("ignore:deprecated string literal syntax:PendingDeprecationWarning")
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_any_bytes_parse_or_are_refused(target: Target) -> None:
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        target.check(data.draw(strategy))

    strategy = inputs(target.samples())
    run()


@pytest.mark.parametrize("target", [each for each in TARGETS if each.has_good_input], ids=lambda target: target.name)
def test_the_samples_are_what_the_parser_reads(target: Target) -> None:
    """Edits of input that is refused from the start would try nothing."""
    assert any(target.check(sample) for sample in target.samples())
