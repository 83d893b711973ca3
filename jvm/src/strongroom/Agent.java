package strongroom;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.net.URI;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.hadoop.fs.Path;

/**
 * What the agent is asked about datasets. Every question is preceded by the guard.
 *
 * <p>Where a file lies and what its key is does not change during a run, so each process asks once for each file. What a
 * dataset lists is changed by the driver's process alone, so that one asks again only when it has changed something.
 */
final class Agent {
  /** The value of a length that only storage knows. */
  static final long LENGTH_UNKNOWN = -1;

  private static final Map LOCATED = new Recent();
  private static final Map KEYS = new Recent();
  private static final Map LISTINGS = new Recent();

  /** How often this process has changed a view; {@code LISTINGS} guards it. */
  private static long changes;

  private Agent() {}

  /** The answers about the places that were asked for last. */
  private static final class Recent extends LinkedHashMap {
    private static final int PLACES = 10000;

    protected boolean removeEldestEntry(Map.Entry eldest) {
      return size() > PLACES;
    }

    public synchronized Object get(Object place) {
      return super.get(place);
    }

    public synchronized Object put(Object place, Object answer) {
      return super.put(place, answer);
    }
  }

  /** A file in this run's view of a dataset. */
  static final class Listed {
    final String path;
    final long lengthBytes;

    Listed(String path, long lengthBytes) {
      this.path = path;
      this.lengthBytes = lengthBytes;
    }
  }

  /** Where a file's ciphertext lies. */
  static final class Located {
    final Path location;
    final long lengthBytes;

    Located(Path location, long lengthBytes) {
      this.location = location;
      this.lengthBytes = lengthBytes;
    }
  }

  /** A name for a new file, and where its ciphertext goes. */
  static final class Created {
    final String path;
    final Path location;

    Created(String path, Path location) {
      this.path = path;
      this.location = location;
    }
  }

  /**
   * What opens or encrypts a file: one key with an AAD prefix; or, where columns have keys of their own, a key for the
   * footer and one for each of these columns.
   */
  static final class FileKey {
    /** The file's key; where columns have keys of their own, the footer's. */
    final Key key;

    /** From the column to its {@code Key}; null where no column has a key of its own. */
    final Map columns;

    FileKey(Key key, Map columns) {
      this.key = key;
      this.columns = columns;
    }
  }

  /** A key with its companion: an AAD prefix, the key metadata that bring it back, or the context that it wraps in. */
  static final class Key {
    final byte[] key;
    final byte[] companion;

    Key(byte[] key, byte[] companion) {
      this.key = key;
      this.companion = companion;
    }
  }

  /**
   * Checks that the application may use a dataset.
   *
   * @throws IOException it is not bound
   */
  static void binding(String dataset) throws IOException {
    ask("binding", new DatasetPath(dataset, ""), false);
  }

  /** Returns every file at or below a place; only the driver's agent knows. The array is not the caller's to change. */
  static Listed[] list(DatasetPath place) throws IOException {
    Guard.check();
    long before;
    synchronized (LISTINGS) {
      Listed[] known = (Listed[]) LISTINGS.get(place);
      if (known != null) {
        return known;
      }
      before = changes;
    }
    Listed[] listed = askForList(place);
    synchronized (LISTINGS) {
      if (changes == before) {
        LISTINGS.put(place, listed);
      }
    }
    return listed;
  }

  private static Listed[] askForList(DatasetPath place) throws IOException {
    JsonNode files = KeySocket.field(ask("list", place, true), "files");
    Listed[] listed = new Listed[files.size()];
    for (int i = 0; i < listed.length; i++) {
      JsonNode file = (JsonNode) files.get(i);
      listed[i] = new Listed(text(file, "path"), KeySocket.field(file, "length_bytes").asLong());
    }
    return listed;
  }

  /** Returns where a file lies and how long it is. */
  static Located open(DatasetPath file) throws IOException {
    Guard.check();
    Located located = (Located) LOCATED.get(file);
    if (located == null) {
      JsonNode answer = ask("open", file, true);
      located = new Located(location(answer), KeySocket.field(answer, "length_bytes").asLong(LENGTH_UNKNOWN));
      LOCATED.put(file, located);
    }
    return located;
  }

  /** Returns the key of a file of this run's view. */
  static FileKey decryption(DatasetPath file) throws IOException {
    Guard.check();
    FileKey key = (FileKey) KEYS.get(file);
    if (key == null) {
      key = fileKey(ask("decryption", file, true), "wrapping", "context_b64");
      KEYS.put(file, key);
    }
    return key;
  }

  /** Returns the name and place of a new file; its base name gets the file's identity. */
  static Created create(DatasetPath file) throws IOException {
    JsonNode answer = ask("create", file, true);
    return new Created(text(answer, "path"), location(answer));
  }

  /** Returns the key of a new file; the agent gives it once. */
  static FileKey encryption(DatasetPath file) throws IOException {
    return fileKey(ask("encryption", file, true), "footer", "metadata_b64");
  }

  /** Takes every file at or below a place out of this run's view; returns how many. */
  static int remove(DatasetPath place) throws IOException {
    try {
      return KeySocket.field(ask("remove", place, true), "removed").asInt();
    } finally {
      forgetListings();
    }
  }

  /**
   * Adds finished files to this run's view of a dataset.
   *
   * @param lengths from the path of each file to its length in bytes
   */
  static void commit(String dataset, Map lengths) throws IOException {
    Guard.check();
    ObjectNode question = KeySocket.question("commit");
    question.put("dataset", dataset);
    ArrayNode files = question.putArray("files");
    Iterator entries = lengths.entrySet().iterator();
    while (entries.hasNext()) {
      Map.Entry entry = (Map.Entry) entries.next();
      ObjectNode file = files.addObject();
      file.put("path", (String) entry.getKey());
      file.put("length_bytes", ((Long) entry.getValue()).longValue());
    }
    try {
      KeySocket.ask(question);
    } finally {
      forgetListings();
    }
  }

  /** Called when a view was changed, or may have been. */
  private static void forgetListings() {
    synchronized (LISTINGS) {
      changes++;
      LISTINGS.clear();
    }
  }

  private static JsonNode ask(String operation, DatasetPath place, boolean withPath) throws IOException {
    Guard.check();
    ObjectNode question = KeySocket.question(operation);
    question.put("dataset", place.dataset);
    if (withPath) {
      question.put("path", place.path);
    }
    return KeySocket.ask(question);
  }

  private static FileKey fileKey(JsonNode answer, String footer, String companion) throws IOException {
    JsonNode columns = KeySocket.field(answer, "columns");
    if (!columns.isObject()) {
      return new FileKey(key(answer, "aad_prefix_b64"), null);
    }
    LinkedHashMap keys = new LinkedHashMap();
    Iterator names = columns.fieldNames();
    while (names.hasNext()) {
      String name = (String) names.next();
      keys.put(name, key(KeySocket.field(columns, name), companion));
    }
    return new FileKey(key(KeySocket.field(answer, footer), companion), keys);
  }

  private static Key key(JsonNode answer, String companion) throws IOException {
    byte[] key = KeySocket.field(answer, "key_b64").binaryValue();
    byte[] beside = KeySocket.field(answer, companion).binaryValue();
    if (key == null || key.length != 32 || beside == null || beside.length == 0) {
      throw new IOException("strongroom: the agent's answer holds no 256-bit key. Look at the agent's log.");
    }
    return new Key(key, beside);
  }

  private static Path location(JsonNode answer) throws IOException {
    return new Path(URI.create(text(answer, "location")));
  }

  private static String text(JsonNode node, String field) throws IOException {
    JsonNode value = KeySocket.field(node, field);
    if (!value.isTextual()) {
      throw new IOException("strongroom: the agent's answer has no " + field + ". Look at the agent's log.");
    }
    return value.asText();
  }
}
