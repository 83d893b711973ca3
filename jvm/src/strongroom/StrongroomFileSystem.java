package strongroom;

import java.io.FileNotFoundException;
import java.io.IOException;
import java.net.URI;
import java.nio.channels.FileChannel;
import java.nio.file.NoSuchFileException;
import java.nio.file.OpenOption;
import java.nio.file.Paths;
import java.nio.file.StandardOpenOption;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.function.Function;
import java.util.stream.Stream;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.RawLocalFileSystem;
import org.apache.hadoop.fs.permission.FsPermission;
import org.apache.hadoop.util.Progressable;
import org.apache.spark.SparkEnv;

/**
 * {@code strongroom://NAME/PATH}: the datasets that this run is bound to.
 *
 * <p>What exists, how long it is and where it lies comes from the agent, never from storage.
 */
public final class StrongroomFileSystem extends FileSystem {
  private static final long BLOCK_BYTES = 128L << 20;
  private static final String PARQUET_PACKAGE = "org.apache.parquet.";

  /** SparkContext.DRIVER_IDENTIFIER, which only Scala can name. */
  private static final String DRIVER = "driver";

  private URI uri;
  private DatasetPath root;
  private Path workingDirectory;
  private RawLocalFileSystem storage;

  public String getScheme() {
    return DatasetPath.SCHEME;
  }

  public URI getUri() {
    return uri;
  }

  public void initialize(URI name, Configuration conf) throws IOException {
    super.initialize(name, conf);
    root = new DatasetPath(DatasetPath.of(new Path(name)).dataset, "");
    uri = URI.create(DatasetPath.SCHEME + "://" + root.dataset);
    workingDirectory = root.hadoopPath("");
    Agent.binding(root.dataset);
    storage = new RawLocalFileSystem();
    storage.initialize(URI.create("file:///"), conf);
  }

  public FSDataInputStream open(Path path, int bufferBytes) throws IOException {
    DatasetPath file = place(path);
    demandParquet("read", file);
    Agent.Located located = Agent.open(file);
    FileChannel ciphertext = ciphertext(file, located.location);
    boolean accepted = false;
    try {
      long physicalBytes = ciphertext.size();
      if (located.lengthBytes != Agent.LENGTH_UNKNOWN && located.lengthBytes != physicalBytes) {
        throw SealedInput.refused(file, "it has " + physicalBytes + " bytes instead of " + located.lengthBytes);
      }
      FSDataInputStream sealed = new FSDataInputStream(SealedInput.check(file, ciphertext, physicalBytes));
      accepted = true;
      return sealed;
    } finally {
      if (!accepted) {
        ciphertext.close();
      }
    }
  }

  public FSDataOutputStream create(Path path, FsPermission permission, boolean overwrite, int bufferBytes,
      short replication, long blockBytes, Progressable progress) throws IOException {
    DatasetPath file = place(path);
    demandParquet("written", file);
    FSDataOutputStream output = storage.create(onStorage(NewFiles.open(file)), false, bufferBytes, replication, blockBytes, progress);
    return new FSDataOutputStream(new SealedOutput(file, output), null);
  }

  public FSDataOutputStream append(Path path, int bufferBytes, Progressable progress) throws IOException {
    throw unsupported("append to a file", path);
  }

  public boolean rename(Path source, Path target) throws IOException {
    throw unsupported("rename", source);
  }

  public boolean delete(Path path, boolean recursive) throws IOException {
    return Agent.remove(place(path)) > 0;
  }

  public boolean mkdirs(Path path, FsPermission permission) {
    return true;
  }

  public void setWorkingDirectory(Path path) {
    workingDirectory = path;
  }

  public Path getWorkingDirectory() {
    return workingDirectory;
  }

  public FileStatus getFileStatus(Path path) throws IOException {
    DatasetPath place = place(path);
    if (place.path.isEmpty()) {
      return directory(place.path);
    }
    return isDriver() ? listedStatus(place) : openedStatus(place);
  }

  /** A dataset without files does not exist yet for writers. */
  public boolean exists(Path path) throws IOException {
    DatasetPath place = place(path);
    if (!place.path.isEmpty()) {
      return super.exists(path);
    }
    return !RootOverwrite.isRunning(place.dataset) && Agent.list(place).length > 0;
  }

  public FileStatus[] listStatus(Path path) throws IOException {
    DatasetPath place = place(path);
    Agent.Listed[] files = Agent.list(place);
    if (files.length == 0 && !place.path.isEmpty()) {
      throw new FileNotFoundException(place + " does not exist");
    }
    String prefix = place.path.isEmpty() ? "" : place.path + "/";
    LinkedHashMap children = new LinkedHashMap();
    for (int i = 0; i < files.length; i++) {
      if (files[i].path.equals(place.path)) {
        return new FileStatus[] {file(place.path, files[i].lengthBytes)};
      }
      int end = files[i].path.indexOf('/', prefix.length());
      String child = end < 0 ? files[i].path : files[i].path.substring(0, end);
      children.put(child, end < 0 ? file(child, files[i].lengthBytes) : directory(child));
    }
    return (FileStatus[]) children.values().toArray(new FileStatus[children.size()]);
  }

  private FileStatus listedStatus(DatasetPath place) throws IOException {
    Agent.Listed[] files = Agent.list(place);
    if (files.length == 0) {
      return file(place.path, NewFiles.length(place));
    }
    return files[0].path.equals(place.path) ? file(place.path, files[0].lengthBytes) : directory(place.path);
  }

  private FileStatus openedStatus(DatasetPath place) throws IOException {
    long finishedBytes = NewFiles.lengthIfFinished(place);
    if (finishedBytes != Agent.LENGTH_UNKNOWN) {
      return file(place.path, finishedBytes);
    }
    Agent.Located located = Agent.open(place);
    boolean known = located.lengthBytes != Agent.LENGTH_UNKNOWN;
    return file(place.path, known ? located.lengthBytes : physicalLength(place, located.location));
  }

  private FileStatus file(String path, long lengthBytes) {
    return new FileStatus(lengthBytes, false, 1, BLOCK_BYTES, 0L, root.hadoopPath(path));
  }

  private FileStatus directory(String path) {
    return new FileStatus(0L, true, 1, 0L, 0L, root.hadoopPath(path));
  }

  private DatasetPath place(Path path) throws IOException {
    checkPath(path);
    return DatasetPath.of(makeQualified(path));
  }

  private static long physicalLength(DatasetPath file, Path location) throws IOException {
    FileChannel ciphertext = ciphertext(file, location);
    try {
      return ciphertext.size();
    } finally {
      ciphertext.close();
    }
  }

  private static FileChannel ciphertext(DatasetPath file, Path location) throws IOException {
    try {
      return FileChannel.open(Paths.get(onStorage(location).toUri().getPath()), new OpenOption[] {StandardOpenOption.READ});
    } catch (NoSuchFileException e) {
      throw new FileNotFoundException("strongroom: " + file + " is in the owner's manifest but missing in storage."
          + " Restore the file from the owner's copy.");
    }
  }

  private static Path onStorage(Path location) throws IOException {
    if (!"file".equals(location.toUri().getScheme())) {
      throw new IOException("strongroom: storage of the kind " + location.toUri().getScheme() + " is not supported."
          + " Bind the dataset to a folder that every node mounts.");
    }
    return location;
  }

  private static boolean isDriver() {
    SparkEnv environment = SparkEnv.get();
    return environment != null && environment.executorId().equals(DRIVER);
  }

  private static void demandParquet(String verb, DatasetPath file) throws IOException {
    if (StackWalker.getInstance().walk(new IsParquet()) == Boolean.TRUE) {
      return;
    }
    throw new IOException("strongroom: " + file + " can only be " + verb + " as Parquet; no other format is supported on"
        + " protected datasets. Use spark.read.parquet and DataFrame.write.parquet.");
  }

  /** Whether Parquet stands among callers; it looks no further than it must, as files are opened often. */
  private static final class IsParquet implements Function {
    public Object apply(Object callers) {
      Iterator frames = ((Stream) callers).iterator();
      while (frames.hasNext()) {
        if (((StackWalker.StackFrame) frames.next()).getClassName().startsWith(PARQUET_PACKAGE)) {
          return Boolean.TRUE;
        }
      }
      return Boolean.FALSE;
    }
  }

  private static IOException unsupported(String action, Path path) {
    return new IOException("strongroom: protected datasets cannot " + action + " (" + path + ")."
        + " Write them with DataFrame.write.parquet.");
  }
}
