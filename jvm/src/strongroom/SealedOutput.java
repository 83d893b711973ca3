package strongroom;

import java.io.IOException;
import java.io.OutputStream;

/** A new file that must begin as Parquet with encrypted footer does; its length is counted here, not asked from storage. */
final class SealedOutput extends OutputStream {
  private static final byte[] MAGIC = {'P', 'A', 'R', 'E'};

  private final DatasetPath file;
  private final OutputStream storage;
  private long lengthBytes;
  private boolean closed;

  SealedOutput(DatasetPath file, OutputStream storage) {
    this.file = file;
    this.storage = storage;
  }

  public void write(int value) throws IOException {
    byte[] one = {(byte) value};
    write(one, 0, 1);
  }

  public void write(byte[] buffer, int offset, int size) throws IOException {
    for (int i = 0; i < size && lengthBytes + i < MAGIC.length; i++) {
      if (buffer[offset + i] != MAGIC[(int) lengthBytes + i]) {
        throw new IOException("strongroom: " + file + " would be written without encryption, which is refused."
            + " Remove Parquet's encryption options from the application.");
      }
    }
    storage.write(buffer, offset, size);
    lengthBytes += size;
  }

  public void flush() throws IOException {
    storage.flush();
  }

  public void close() throws IOException {
    if (closed) {
      return;
    }
    closed = true;
    storage.close();
    if (lengthBytes >= MAGIC.length) {
      NewFiles.close(file, lengthBytes);
    }
  }
}
