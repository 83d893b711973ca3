"""What a run on Kubernetes is rendered to, character by character."""

import pytest
from tests.support.kubernetes.golden import CASES, EXAMPLES, examples
from tests.support.kubernetes.rendering import FOLDER, rendered

from strongroom.cluster.kubernetes.documents import read_template


@pytest.mark.parametrize("case", CASES)
def test_renders_what_it_rendered(case: str) -> None:
    assert CASES[case]() == (FOLDER / case).read_text(encoding="utf-8")


def test_nothing_is_left_over() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*CASES}


def test_the_examples_are_a_prepared_run() -> None:
    for name, text in examples().items():
        assert (EXAMPLES / name).read_text(encoding="utf-8") == text


def test_the_examples_template_is_one_that_is_taken() -> None:
    own = read_template(EXAMPLES / "executor-template.yaml")

    run = rendered(executor_template=own)
    assert '"claimName":"taxis"' in run.descriptor.executor_template
