import pytest

from strongroom.application.settings import check_environment, check_settings
from strongroom.base.errors import RefusedError
from strongroom.engine.settings import enforced_settings, guarded_settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spark.sql.shuffle.partitions", "200"),
        ("spark.sql.adaptive.enabled", "false"),
        ("spark.sql.adaptive.advisoryPartitionSizeInBytes", "64MB"),
        ("spark.sql.autoBroadcastJoinThreshold", "-1"),
        ("spark.sql.session.timeZone", "America/New_York"),
        ("spark.sql.session.timeZone", "+01:00"),
        ("spark.sql.files.maxPartitionBytes", "134217728"),
        ("spark.default.parallelism", "8"),
        ("spark.sql.ansi.enabled", "true"),
        ("spark.serializer", "org.apache.spark.serializer.KryoSerializer"),
        ("spark.sql.parquet.compression.codec", "zstd"),
        ("spark.sql.sources.partitionOverwriteMode", "dynamic"),
        ("spark.driver.extraJavaOptions", "-XX:TieredStopAtLevel=1"),
        ("spark.executor.extraJavaOptions", "-XX:+UseG1GC -Xss4m  -XX:MaxGCPauseMillis=100 -XX:MaxDirectMemorySize=1g"),
    ],
)
def test_allows_what_only_concerns_the_computation(name: str, value: str) -> None:
    check_settings({name: value})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("spark.authenticate", "protects what passes"),
        ("spark.authenticate.secret", "protects what passes"),
        ("spark.network.crypto.enabled", "protects what passes"),
        ("spark.network.crypto.saslFallback", "protects what passes"),
        ("spark.ssl.enabled", "protects what passes"),
        ("spark.io.encryption.enabled", "writes to disk"),
        ("spark.shuffle.manager", "writes to disk"),
        ("spark.shuffle.service.enabled", "writes to disk"),
        ("spark.shuffle.sort.io.plugin.class", "loads code"),
        ("spark.driver.defaultJavaOptions", "loads code"),
        ("spark.executor.defaultJavaOptions", "loads code"),
        ("spark.executor.extraClassPath", "loads code"),
        ("spark.driver.extraLibraryPath", "loads code"),
        ("spark.plugins", "loads code"),
        ("spark.extraListeners", "loads code"),
        ("spark.sql.extensions", "loads code"),
        ("spark.sql.queryExecutionListeners", "loads code"),
        ("spark.kryo.registrator", "loads code"),
        ("spark.kryo.classesToRegister", "loads code"),
        ("spark.sql.adaptive.customCostEvaluatorClass", "loads code"),
        ("spark.sql.sources.commitProtocolClass", "loads code"),
        ("spark.jars", "files are measured"),
        ("spark.jars.packages", "files are measured"),
        ("spark.jars.ivySettings", "files are measured"),
        ("spark.submit.pyFiles", "files are measured"),
        ("spark.files", "files are measured"),
        ("spark.sql.catalog.evil", "encrypted and committed"),
        ("spark.sql.warehouse.dir", "encrypted and committed"),
        ("spark.hadoop.fs.strongroom.impl", "replace the file system"),
        ("spark.hadoop.parquet.crypto.factory.class", "loads code"),
        ("spark.ui.enabled", "show data"),
        ("spark.eventLog.dir", "show data"),
        ("spark.metrics.conf", "show data"),
        ("spark.pyspark.python", "interpreter"),
        ("spark.python.unix.domain.socket.enabled", "interpreter"),
        ("spark.local.dir", "paths and addresses"),
        ("spark.driver.host", "paths and addresses"),
        ("spark.master", "how Spark's processes are started"),
        ("spark.remote", "how Spark's processes are started"),
        ("spark.executor.memory", "--executor-memory"),
        ("spark.executor.memoryOverhead", "--executor-memory"),
        ("spark.executor.cores", "--executor-cores"),
        ("spark.executor.instances", "--num-executors"),
        ("spark.cores.max", "--num-executors"),
        ("spark.driver.memory", "--driver-memory"),
        ("spark.app.name", "--name"),
        ("spark.executorEnv.LD_PRELOAD", "environment variables"),
        ("spark.something.new", "not among the settings"),
        ("SPARK.SQL.ANSI.ENABLED", "not among the settings"),
        ("spark.sql.ansi.enabled ", "not among the settings"),
        ("", "not among the settings"),
    ],
)
def test_refuses_by_name_and_says_why(name: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason) as refusal:
        check_settings({name: "true"})
    assert f"setting {name}:" in refusal.value.message


@pytest.mark.parametrize("name", sorted(enforced_settings() | guarded_settings()))
def test_refuses_everything_that_protection_rests_on(name: str) -> None:
    for value in ("", "true", "false", (enforced_settings() | guarded_settings())[name]):
        with pytest.raises(RefusedError):
            check_settings({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spark.sql.shuffle.partitions", "many"),
        ("spark.sql.shuffle.partitions", "8\n"),
        ("spark.sql.adaptive.enabled", "TRUE"),
        ("spark.serializer", "com.example.Serializer"),
        ("spark.sql.session.timeZone", "UTC;x"),
        ("spark.sql.parquet.compression.codec", "com.example.Codec"),
        *(
            ("spark.executor.extraJavaOptions", f"-Xss1m {option}")
            for option in (
                "",
                "-Xmx9g",
                "-Dx=1",
                "-Xbootclasspath/a:/data/evil.jar",
                "-XX:Flags=/data/flags",
                "-XX:+HeapDumpOnOutOfMemoryError",
                "-XX:-DisableAttachMechanism",
                "-XX:OnOutOfMemoryError=sh",
                "-XX:ErrorFile=/data/error",
                "-XX:+UseSerialGC",
                "-javaagent:/data/evil.jar",
                "-cp",
                "@/data/options",
                "Evil",
                "-Xss1m\n-cp",
            )
        ),
    ],
)
def test_refuses_values_of_another_kind(name: str, value: str) -> None:
    with pytest.raises(RefusedError, match="is not a value for it"):
        check_settings({name: value})


def test_names_every_refused_setting_and_no_secret() -> None:
    with pytest.raises(RefusedError) as refusal:
        check_settings(
            {
                "spark.authenticate.secret": "s3cret",
                "spark.sql.ansi.enabled": "true",
                "spark.plugins": "com.evil.Plugin",
            }
        )
    assert [mismatch.name for mismatch in refusal.value.mismatches] == ["spark.authenticate.secret", "spark.plugins"]
    assert "s3cret" not in refusal.value.message + str(refusal.value.mismatches)
    assert refusal.value.action == "remove the settings from the application"


def test_allows_variables_of_the_application() -> None:
    check_environment({"MODE": "full", "TAXI_YEAR": "2018", "_x1": "", "LDAP_SERVER": "x"})


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "PYSPARK_PYTHON",
        "JAVA_HOME",
        "JAVA_TOOL_OPTIONS",
        "_JAVA_OPTIONS",
        "JDK_JAVA_OPTIONS",
        "SPARK_CONF_DIR",
        "SPARK_HOME",
        "HADOOP_CONF_DIR",
        "STRONGROOM_SOCKET",
        "PATH",
        "HOME",
        "TMPDIR",
        "TZ",
        "LC_ALL",
        "https_proxy",
        "HTTP_PROXY",
        "BASH_ENV",
    ],
)
def test_refuses_variables_that_change_how_things_work(name: str) -> None:
    with pytest.raises(RefusedError, match=f"environment variable {name}:"):
        check_environment({name: "x"})


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A=B", "A\n", "Ä"])
def test_refuses_names_that_are_no_variables(name: str) -> None:
    with pytest.raises(RefusedError, match="letters, digits"):
        check_environment({name: "x"})
