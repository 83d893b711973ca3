package strongroom;

import java.io.IOException;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.Iterator;
import java.util.LinkedHashSet;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.mapreduce.JobContext;
import org.apache.hadoop.mapreduce.TaskAttemptContext;
import org.apache.spark.internal.io.FileCommitProtocol;
import org.apache.spark.internal.io.FileNameSpec;
import org.apache.spark.sql.execution.datasources.SQLHadoopMapReduceCommitProtocol;

/**
 * How a Spark job's files get into a dataset.
 *
 * <p>Tasks write under final names, which carry the file's identity. Names and lengths travel to the driver inside
 * Spark's encrypted RPC, so storage cannot drop or add one. Only files of successful tasks are committed. Outputs outside
 * of datasets (the TEE's scratch) follow Spark's own protocol.
 */
public final class CommitProtocol extends FileCommitProtocol implements Serializable {
  private static final long serialVersionUID = 1L;

  private final String jobId;
  private final String outputPath;
  private final boolean dynamicPartitionOverwrite;

  /** Spark's own protocol, for outputs outside of datasets; null otherwise. */
  private final SQLHadoopMapReduceCommitProtocol plain;

  private transient ArrayList deletions = new ArrayList();
  private transient ArrayList written;

  public CommitProtocol(String jobId, String outputPath, boolean dynamicPartitionOverwrite) {
    this.jobId = jobId;
    this.outputPath = outputPath;
    this.dynamicPartitionOverwrite = dynamicPartitionOverwrite;
    boolean isDataset = DatasetPath.SCHEME.equals(new Path(outputPath).toUri().getScheme());
    this.plain = isDataset ? null : new SQLHadoopMapReduceCommitProtocol(jobId, outputPath, dynamicPartitionOverwrite);
  }

  public void setupJob(JobContext job) {
    if (plain != null) {
      plain.setupJob(job);
      return;
    }
    try {
      DatasetPath output = DatasetPath.of(new Path(outputPath));
      if (!dynamicPartitionOverwrite && RootOverwrite.isRunning(output.dataset)) {
        deletions.add(new DatasetPath(output.dataset, ""));
      }
    } catch (IOException e) {
      throw new java.io.UncheckedIOException(e);
    }
  }

  public void setupTask(TaskAttemptContext task) {
    if (plain != null) {
      plain.setupTask(task);
    }
    written = new ArrayList();
  }

  public String newTaskTempFile(TaskAttemptContext task, scala.Option directory, FileNameSpec name) {
    if (plain != null) {
      return plain.newTaskTempFile(task, directory, name);
    }
    String fileName = name.prefix() + String.format("part-%05d-%s", new Object[] {
        Integer.valueOf(task.getTaskAttemptID().getTaskID().getId()), jobId}) + name.suffix();
    Path parent = directory.isDefined() ? new Path(outputPath, (String) directory.get()) : new Path(outputPath);
    try {
      DatasetPath wanted = DatasetPath.of(new Path(parent, fileName));
      Agent.Created created = Agent.create(wanted);
      DatasetPath file = new DatasetPath(wanted.dataset, created.path);
      NewFiles.issue(file, created.location);
      written.add(file);
      return file.hadoopPath(file.path).toString();
    } catch (IOException e) {
      throw new java.io.UncheckedIOException(e);
    }
  }

  public String newTaskTempFileAbsPath(TaskAttemptContext task, String directory, FileNameSpec name) {
    if (plain != null && !DatasetPath.SCHEME.equals(new Path(directory).toUri().getScheme())) {
      return plain.newTaskTempFileAbsPath(task, directory, name);
    }
    throw new UnsupportedOperationException("strongroom: partitions with their own location are not supported."
        + " Write to one dataset with DataFrame.write.partitionBy.");
  }

  public FileCommitProtocol.TaskCommitMessage commitTask(TaskAttemptContext task) {
    if (plain != null) {
      return plain.commitTask(task);
    }
    HashMap lengths = new HashMap();
    try {
      for (int i = 0; i < written.size(); i++) {
        DatasetPath file = (DatasetPath) written.get(i);
        lengths.put(file.path, Long.valueOf(NewFiles.length(file)));
      }
    } catch (IOException e) {
      throw new java.io.UncheckedIOException(e);
    }
    forgetWritten();
    return new FileCommitProtocol.TaskCommitMessage(lengths);
  }

  public void abortTask(TaskAttemptContext task) {
    if (plain != null) {
      plain.abortTask(task);
    }
    forgetWritten();
  }

  public void commitJob(JobContext job, scala.collection.immutable.Seq taskCommits) {
    if (plain != null) {
      plain.commitJob(job, taskCommits);
      return;
    }
    HashMap lengths = new HashMap();
    scala.collection.Iterator messages = taskCommits.iterator();
    while (messages.hasNext()) {
      lengths.putAll((HashMap) ((FileCommitProtocol.TaskCommitMessage) messages.next()).obj());
    }
    try {
      DatasetPath output = DatasetPath.of(new Path(outputPath));
      if (dynamicPartitionOverwrite) {
        deletePartitions(output.dataset, lengths);
      }
      for (int i = 0; i < deletions.size(); i++) {
        Agent.remove((DatasetPath) deletions.get(i));
      }
      Agent.commit(output.dataset, lengths);
    } catch (IOException e) {
      throw new java.io.UncheckedIOException(e);
    }
  }

  public void abortJob(JobContext job) {
    if (plain != null) {
      plain.abortJob(job);
    }
    deletions.clear();
  }

  /** What a job overwrites disappears when the job commits, not before. */
  public boolean deleteWithJob(FileSystem fileSystem, Path path, boolean recursive) {
    if (plain != null) {
      return plain.deleteWithJob(fileSystem, path, recursive);
    }
    try {
      deletions.add(DatasetPath.of(fileSystem.makeQualified(path)));
    } catch (IOException e) {
      throw new java.io.UncheckedIOException(e);
    }
    return true;
  }

  private void deletePartitions(String dataset, HashMap lengths) {
    LinkedHashSet partitions = new LinkedHashSet();
    Iterator paths = lengths.keySet().iterator();
    while (paths.hasNext()) {
      String path = (String) paths.next();
      partitions.add(new DatasetPath(dataset, path.substring(0, Math.max(path.lastIndexOf('/'), 0))));
    }
    deletions.addAll(partitions);
  }

  private void forgetWritten() {
    for (int i = 0; written != null && i < written.size(); i++) {
      NewFiles.forget((DatasetPath) written.get(i));
    }
    written = null;
  }
}
