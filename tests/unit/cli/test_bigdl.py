import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from strongroom.cli.bigdl import FLAGS, SETTINGS, VARIABLES, translate
from strongroom.cli.commands.submit import submit
from strongroom.cli.main import strongroom

MASTER = "k8s://https://10.0.0.1:6443"
SAMPLE = [
    *("--master", MASTER, "--deploy-mode", "cluster", "--sgx-enabled", "true"),
    *("--sgx-driver-jvm-memory", "12g", "--sgx-executor-jvm-memory", "12g", "--driver-memory", "32g"),
    *("--driver-cores", "8", "--executor-memory", "32g", "--executor-cores", "8", "--num-executors", "2"),
    *("--conf", "spark.cores.max=16", "--conf", "spark.kubernetes.container.image=IMAGE", "--verbose"),
    *("--conf", "spark.kubernetes.file.upload.path=file:///tmp", "--name", "nytaxi"),
    *("local:///ppml/report.py", "--inputPath", "/data"),
]
"""A command as BigDL's own pages have it."""


def words(*given: str, **variables: str) -> list[str]:
    return translate(given, variables=variables)


def test_a_command_of_bigdls_pages_becomes_one_of_ours() -> None:
    assert words(*SAMPLE) == [
        *("--master", MASTER),
        *("--driver-memory", "12g", "--conf", "spark.driver.memoryOverhead=20480m"),
        *("--executor-memory", "12g", "--conf", "spark.executor.memoryOverhead=20480m"),
        *("--driver-cores", "8", "--conf", "spark.kubernetes.container.image=IMAGE"),
        *("--executor-cores", "8", "--num-executors", "2", "--name", "nytaxi"),
        *("/ppml/report.py", "--inputPath", "/data"),
    ]


def test_what_it_becomes_is_understood() -> None:
    params = submit.make_context("submit", words("--dataset", "trips=/data", *SAMPLE)).params

    assert params["master"] == MASTER
    assert params["driver_memory_mb"] == 12 * 1024
    assert params["script"] == Path("/ppml/report.py")
    assert params["arguments"] == ("--inputPath", "/data")
    assert dict(params["conf"])["spark.driver.memoryOverhead"] == "20480m"


def test_local_modes_run_on_this_machine() -> None:
    assert words("--master", "local[4]", "--deploy-mode", "client", "--driver-cores", "8", "a.py") == [
        *("--master", "local", "--executor-cores", "4", "a.py")
    ]
    assert words("--master", "local[4]", "--executor-cores", "2", "a.py")[2:] == ["--executor-cores", "2", "a.py"]
    assert words("--master", "local[*]", "a.py") == ["--master", "local", "a.py"]
    assert words("--sgx-driver-jvm-memory", "1g", "--driver-memory", "4g", "a.py") == [
        *("--master", "local", "--driver-memory", "1g", "a.py")
    ]


def test_templates_are_sparks_own_settings() -> None:
    translated = words("--master", MASTER, "--driver-template", "d.yaml", "--executor-template", "e.yaml", "a.py")

    assert translated[2:-1] == [
        *("--conf", "spark.kubernetes.driver.podTemplateFile=d.yaml"),
        *("--conf", "spark.kubernetes.executor.podTemplateFile=e.yaml"),
    ]


def test_the_environment_gives_what_the_command_line_does_not() -> None:
    variables = {
        "RUNTIME_SPARK_MASTER": MASTER,
        "RUNTIME_K8S_SPARK_IMAGE": "IMAGE",
        "RUNTIME_DRIVER_MEMORY": "8g",
        "secure_password": "s3cret",
    }
    assert words("a.py", **variables) == [
        *("--master", MASTER, "--driver-memory", "8g"),
        *("--conf", "spark.kubernetes.container.image=IMAGE", "a.py"),
    ]
    given = words("--master", "local", "--driver-memory", "1g", "a.py", **variables)
    assert given == ["--master", "local", "--driver-memory", "1g", "a.py"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--sgx-enabled", "false", "a.py"), "use spark-submit"),
        (("--master", MASTER, "--deploy-mode", "client", "a.py"), "--deploy-mode cluster"),
        (("--key-store", "k", "a.py"), "made in the TEEs"),
        (("--log-file", "l", "a.py"), "> FILE"),
        (("--sgx-driver-memory", "1g", "a.py"), "--driver-memory"),
        (("--sgx-executor-memory=1g", "a.py"), "--executor-memory"),
        (("--sgx-log-level", "error", "a.py"), "leave it out"),
        (("--conf", "spark.bigdl.primaryKey.x.plainText=s3cret", "a.py"), "--dataset"),
        (("--conf", "spark.kubernetes.sgx.enabled=true", "a.py"), "leave it out"),
        (("--conf", "spark.hadoop.io.compression.codecs=x", "a.py"), "strongroom://NAME"),
        (("local:///jars/app.jar",), "PySpark"),
        (("--num-executors",), "no value"),
        (("--sgx-driver-jvm-memory", "x", "--driver-memory", "1g", "--master", MASTER, "a.py"), "no amount of memory"),
        (("--sgx-driver-jvm-memory", "2g", "--driver-memory", "1g", "--master", MASTER, "a.py"), "is more than"),
    ],
)
def test_refuses_with_what_to_do_instead(given: tuple[str, ...], says: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        words(*given)

    assert says in caught.value.message
    assert "s3cret" not in caught.value.message


def test_the_command_line_begins_with_whose_it_is() -> None:
    result = CliRunner().invoke(strongroom, ["submit", "--compat", "bigdl", "--key-store", "k", "a.py"])
    assert result.exit_code == 2
    assert "--key-store of BigDL PPML is not taken over" in result.output

    result = CliRunner().invoke(strongroom, ["submit", "--name", "x", "--compat", "bigdl", "a.py"])
    assert result.exit_code == 2
    assert "comes first" in result.output


def test_the_page_shows_what_becomes_of_everything(repo_root: Path) -> None:
    page = (repo_root / "docs" / "how-to" / "from-bigdl.md").read_text(encoding="utf-8")
    rows = {cells[0].strip(" `"): cells for line in page.splitlines() if (cells := line.strip("|").split(" | "))[1:]}

    for table in (FLAGS, SETTINGS, VARIABLES):
        for name, fate in table.items():
            shown = f"{name}*" if name.endswith(".") else name
            assert shown in rows, name
            _, becomes, why = rows[shown]
            expected = "refused" if fate.refused else f"`{fate.becomes}`" if fate.becomes else "nothing"
            assert (becomes.strip(), why.strip(" |")) == (expected, fate.why), name


def test_the_page_names_nothing_that_is_not_there(repo_root: Path) -> None:
    page = (repo_root / "docs" / "how-to" / "from-bigdl.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `(--[a-z-]+)` \|", page, flags=re.MULTILINE))

    assert named == set(FLAGS)
