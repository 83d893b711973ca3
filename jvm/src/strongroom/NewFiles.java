package strongroom;

import java.io.FileNotFoundException;
import java.io.IOException;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.hadoop.fs.Path;

/** The files that tasks of this process were allowed to write, and how far they have come. */
final class NewFiles {
  private static final ConcurrentHashMap FILES = new ConcurrentHashMap();

  private NewFiles() {}

  private static final class NewFile {
    final Path location;
    boolean hasKey;
    boolean isOpened;
    long lengthBytes = Agent.LENGTH_UNKNOWN;

    NewFile(Path location) {
      this.location = location;
    }
  }

  /** Notes that the agent issued a file. */
  static void issue(DatasetPath file, Path location) {
    FILES.put(file, new NewFile(location));
  }

  /** Notes that Parquet's writer has the file's key. */
  static void giveKey(DatasetPath file) throws IOException {
    NewFile entry = entry(file);
    synchronized (entry) {
      entry.hasKey = true;
    }
  }

  /**
   * Returns where a file is to be written; once.
   *
   * @throws IOException the file was not issued here, has no key, or was written already
   */
  static Path open(DatasetPath file) throws IOException {
    NewFile entry = entry(file);
    synchronized (entry) {
      if (!entry.hasKey || entry.isOpened) {
        throw notIssued(file);
      }
      entry.isOpened = true;
      return entry.location;
    }
  }

  /** Notes the length of a finished file. */
  static void close(DatasetPath file, long lengthBytes) throws IOException {
    NewFile entry = entry(file);
    synchronized (entry) {
      entry.lengthBytes = lengthBytes;
    }
  }

  /**
   * Returns the length of a file that this process has finished.
   *
   * @throws FileNotFoundException it has not
   */
  static long length(DatasetPath file) throws IOException {
    long lengthBytes = lengthIfFinished(file);
    if (lengthBytes == Agent.LENGTH_UNKNOWN) {
      throw new FileNotFoundException("strongroom: " + file + " was not finished. Look for an earlier error in this task.");
    }
    return lengthBytes;
  }

  /** Returns the length of a file that this process has finished, or {@code Agent.LENGTH_UNKNOWN}. */
  static long lengthIfFinished(DatasetPath file) {
    NewFile entry = (NewFile) FILES.get(file);
    if (entry == null) {
      return Agent.LENGTH_UNKNOWN;
    }
    synchronized (entry) {
      return entry.lengthBytes;
    }
  }

  /** Forgets a file, when its task has ended. */
  static void forget(DatasetPath file) {
    FILES.remove(file);
  }

  private static NewFile entry(DatasetPath file) throws IOException {
    NewFile entry = (NewFile) FILES.get(file);
    if (entry == null) {
      throw notIssued(file);
    }
    return entry;
  }

  private static IOException notIssued(DatasetPath file) {
    return new IOException("strongroom: " + file + " cannot be written this way. Write protected datasets with DataFrame.write.parquet.");
  }
}
