package strongroom;

import java.io.IOException;
import org.apache.spark.SparkContext;
import org.apache.spark.SparkContext$;
import org.apache.spark.sql.SaveMode;
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan;
import org.apache.spark.sql.execution.QueryExecution;
import org.apache.spark.sql.execution.SQLExecution;
import org.apache.spark.sql.execution.datasources.InsertIntoHadoopFsRelationCommand;

/**
 * Overwriting a whole dataset.
 *
 * <p>Spark cannot overwrite the root of a file system that exists ("Can not create a Path from an empty string"). So the
 * root of a dataset does not exist for a command that overwrites it, and the commit protocol replaces its files.
 */
final class RootOverwrite {
  private static final String EXECUTION_ID = "spark.sql.execution.id";

  private RootOverwrite() {}

  /** Tells whether the command that this thread runs overwrites the dataset at its root. */
  static boolean isRunning(String dataset) throws IOException {
    scala.Option context = SparkContext$.MODULE$.getActive();
    String id = context.isEmpty() ? null : ((SparkContext) context.get()).getLocalProperty(EXECUTION_ID);
    QueryExecution execution = id == null ? null : SQLExecution.getQueryExecution(Long.parseLong(id));
    LogicalPlan plan = execution == null ? null : execution.logical();
    if (!(plan instanceof InsertIntoHadoopFsRelationCommand)) {
      return false;
    }
    InsertIntoHadoopFsRelationCommand command = (InsertIntoHadoopFsRelationCommand) plan;
    return command.mode() == SaveMode.Overwrite
        && DatasetPath.SCHEME.equals(command.outputPath().toUri().getScheme())
        && DatasetPath.of(command.outputPath()).equals(new DatasetPath(dataset, ""));
  }
}
