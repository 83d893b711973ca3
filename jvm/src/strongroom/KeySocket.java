package strongroom;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.ByteArrayOutputStream;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.ConcurrentLinkedQueue;

/**
 * Questions to the agent over its Unix socket: one JSON object a line, one line of answer.
 *
 * <p>A connection serves one question at a time; idle ones are kept for the next.
 */
final class KeySocket {
  private static final String SOCKET_VARIABLE = "STRONGROOM_SOCKET";
  private static final int MAX_LINE_BYTES = 64 << 20;
  private static final int BUFFER_BYTES = 64 << 10;
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final ConcurrentLinkedQueue IDLE = new ConcurrentLinkedQueue();

  private KeySocket() {}

  /** Returns a question without fields yet. */
  static ObjectNode question(String operation) {
    ObjectNode question = JSON.createObjectNode();
    question.put("op", operation);
    return question;
  }

  /**
   * Asks the agent.
   *
   * @return its answer, which is not a refusal
   * @throws FileNotFoundException the agent says that the thing does not exist
   * @throws IOException the agent refuses, or does not answer
   */
  static JsonNode ask(ObjectNode question) throws IOException {
    JsonNode answer = JSON.readTree(exchange(JSON.writeValueAsBytes(question)));
    if (answer == null || !answer.isObject()) {
      throw new IOException("strongroom: the agent's answer is not a JSON object. Look at the agent's log.");
    }
    JsonNode error = field(answer, "error");
    if (!error.isMissingNode()) {
      String text = sentence(field(error, "message").asText()) + " " + field(error, "action").asText();
      if (field(error, "code").asText().equals("not-found")) {
        throw new FileNotFoundException(text.trim());
      }
      throw new IOException(text.trim());
    }
    return answer;
  }

  /** Returns a field of an answer, or the missing node. (Janino needs the cast.) */
  static JsonNode field(JsonNode node, String name) {
    return (JsonNode) node.path(name);
  }

  private static String sentence(String message) {
    return "strongroom: " + message + (message.endsWith(".") ? "" : ".");
  }

  private static byte[] exchange(byte[] line) throws IOException {
    SocketChannel connection = (SocketChannel) IDLE.poll();
    if (connection == null) {
      connection = connect();
    }
    boolean whole = false;
    try {
      send(connection, line);
      byte[] answer = receive(connection);
      whole = true;
      return answer;
    } finally {
      if (whole) {
        IDLE.add(connection);
      } else {
        connection.close();
      }
    }
  }

  private static SocketChannel connect() throws IOException {
    String socket = System.getenv(SOCKET_VARIABLE);
    if (socket == null) {
      throw new IOException("strongroom: this process has no agent. Start the application with `strongroom submit`.");
    }
    SocketChannel connection = SocketChannel.open(StandardProtocolFamily.UNIX);
    try {
      connection.connect(UnixDomainSocketAddress.of(socket));
    } catch (IOException e) {
      connection.close();
      throw new IOException("strongroom: the agent does not answer. It has ended, so this run ends too.", e);
    }
    return connection;
  }

  private static void send(SocketChannel connection, byte[] line) throws IOException {
    ByteBuffer rest = ByteBuffer.allocate(line.length + 1);
    rest.put(line);
    rest.put((byte) '\n');
    rest.flip();
    while (rest.hasRemaining()) {
      connection.write(rest);
    }
  }

  private static byte[] receive(SocketChannel connection) throws IOException {
    ByteArrayOutputStream line = new ByteArrayOutputStream();
    ByteBuffer chunk = ByteBuffer.allocate(BUFFER_BYTES);
    while (true) {
      chunk.clear();
      int size = connection.read(chunk);
      if (size < 0) {
        throw new IOException("strongroom: the agent ended the connection. Look at the agent's log.");
      }
      boolean last = size > 0 && chunk.get(size - 1) == '\n';
      line.write(chunk.array(), 0, last ? size - 1 : size);
      if (last) {
        return line.toByteArray();
      }
      if (line.size() > MAX_LINE_BYTES) {
        throw new IOException("strongroom: the agent's answer is too long. Split the dataset into fewer files.");
      }
    }
  }
}
