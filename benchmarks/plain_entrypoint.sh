#!/bin/bash
# Starts Spark in a plain pod, as the entry point of Spark's own images does. Spark says by the first argument what the
# pod is, and the rest by arguments and environment. Strongroom's image has no `grep`, `sed` or `tini`; nothing here
# needs them.
# Source: Apache Spark, resource-managers/kubernetes/docker/src/main/dockerfiles/spark/entrypoint.sh
set -eu

role=$1
shift
case $role in
driver)
  exec "$SPARK_HOME/bin/spark-submit" \
    --conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" \
    --conf "spark.executorEnv.SPARK_DRIVER_POD_IP=$SPARK_DRIVER_BIND_ADDRESS" \
    --deploy-mode client "$@"
  ;;
executor)
  options=()
  name=SPARK_JAVA_OPT_0
  while [[ -v $name ]]; do
    options+=("${!name}")
    name=SPARK_JAVA_OPT_${#options[@]}
  done
  exec "$JAVA_HOME/bin/java" "${options[@]}" "-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" \
    -cp "$SPARK_CONF_DIR:${SPARK_CLASSPATH:+$SPARK_CLASSPATH:}$SPARK_HOME/jars/*:$PWD" \
    org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
    --driver-url "$SPARK_DRIVER_URL" \
    --executor-id "$SPARK_EXECUTOR_ID" \
    --cores "$SPARK_EXECUTOR_CORES" \
    --app-id "$SPARK_APPLICATION_ID" \
    --hostname "$SPARK_EXECUTOR_POD_IP" \
    --resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" \
    --podName "$SPARK_EXECUTOR_POD_NAME"
  ;;
*)
  echo "neither a driver's pod nor an executor's: $role" >&2
  exit 64
  ;;
esac
