package strongroom;

import java.io.IOException;
import org.apache.hadoop.fs.Path;

/** A place in a dataset: {@code strongroom://dataset/path}. */
final class DatasetPath {
  static final String SCHEME = "strongroom";

  final String dataset;

  /** Relative, without a leading slash; empty for the dataset's root. */
  final String path;

  DatasetPath(String dataset, String path) {
    this.dataset = dataset;
    this.path = path;
  }

  /**
   * Reads a qualified path.
   *
   * @throws IOException it names no dataset
   */
  static DatasetPath of(Path path) throws IOException {
    String dataset = path.toUri().getAuthority();
    if (!SCHEME.equals(path.toUri().getScheme()) || dataset == null || dataset.isEmpty()) {
      throw new IOException("strongroom: " + path + " names no dataset. Write strongroom://NAME or strongroom://NAME/PATH.");
    }
    String rest = path.toUri().getPath();
    return new DatasetPath(dataset, rest.startsWith("/") ? rest.substring(1) : rest);
  }

  /** Returns the Hadoop path of another place in the same dataset. */
  Path hadoopPath(String otherPath) {
    return new Path(SCHEME, dataset, "/" + otherPath);
  }

  public String toString() {
    return SCHEME + "://" + dataset + "/" + path;
  }

  public boolean equals(Object other) {
    return other instanceof DatasetPath && dataset.equals(((DatasetPath) other).dataset) && path.equals(((DatasetPath) other).path);
  }

  public int hashCode() {
    return 31 * dataset.hashCode() + path.hashCode();
  }
}
