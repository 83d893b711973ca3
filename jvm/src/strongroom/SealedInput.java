package strongroom;

import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import org.apache.hadoop.fs.ByteBufferReadable;
import org.apache.hadoop.fs.FSInputStream;

/**
 * A Parquet file with encrypted footer, of which the tail was read once and is then served from memory.
 *
 * <p>The algorithm stands unauthenticated in the tail. So the bytes that were checked must be the bytes that Parquet
 * reads: storage is not asked a second time.
 */
final class SealedInput extends FSInputStream implements ByteBufferReadable {
  private static final int TRAILER_BYTES = 8;
  private static final int MIN_FILE_BYTES = 4 + TRAILER_BYTES;
  private static final int MAX_TAIL_BYTES = 256 << 20;

  /** Java keeps a buffer outside the heap for each thread, as large as the largest read. */
  private static final int MAX_READ_BYTES = 1 << 20;

  /** FileCryptoMetaData in Thrift's compact protocol: field 1 (a struct), in it field 1 (a struct): AES_GCM_V1. */
  private static final byte FIELD_1_STRUCT = 0x1c;

  private final FileChannel storage;
  private final long lengthBytes;
  private final long tailStart;
  private final byte[] tail;
  private long position;

  private SealedInput(FileChannel storage, long lengthBytes, byte[] tail) {
    this.storage = storage;
    this.lengthBytes = lengthBytes;
    this.tailStart = lengthBytes - tail.length;
    this.tail = tail;
  }

  /**
   * Checks a file's tail.
   *
   * @param file its name, for messages
   * @return a stream over the file, which closes {@code storage}
   * @throws IOException not an encrypted-footer Parquet file under AES_GCM_V1
   */
  static SealedInput check(DatasetPath file, FileChannel storage, long lengthBytes) throws IOException {
    if (lengthBytes < MIN_FILE_BYTES) {
      throw refused(file, "it is not a Parquet file");
    }
    byte[] trailer = new byte[TRAILER_BYTES];
    readFully(storage, lengthBytes - TRAILER_BYTES, ByteBuffer.wrap(trailer));
    if (trailer[4] != 'P' || trailer[5] != 'A' || trailer[6] != 'R' || trailer[7] != 'E') {
      throw refused(file, "it is not a Parquet file with encrypted footer");
    }
    long footerBytes = (trailer[0] & 255L) | (trailer[1] & 255L) << 8 | (trailer[2] & 255L) << 16 | (trailer[3] & 255L) << 24;
    if (footerBytes < 2 || footerBytes > lengthBytes - MIN_FILE_BYTES || footerBytes > MAX_TAIL_BYTES) {
      throw refused(file, "its footer's length is impossible");
    }
    byte[] tail = new byte[(int) footerBytes + TRAILER_BYTES];
    readFully(storage, lengthBytes - tail.length, ByteBuffer.wrap(tail, 0, (int) footerBytes));
    System.arraycopy(trailer, 0, tail, (int) footerBytes, TRAILER_BYTES);
    if (tail[0] != FIELD_1_STRUCT || tail[1] != FIELD_1_STRUCT) {
      throw refused(file, "it is not encrypted under AES_GCM_V1");
    }
    return new SealedInput(storage, lengthBytes, tail);
  }

  static IOException refused(DatasetPath file, String reason) {
    return new IOException("strongroom: " + file + " is refused: " + reason + ", so it is not what the owner's manifest lists."
        + " Restore the file from the owner's copy.");
  }

  public void seek(long target) throws IOException {
    if (target < 0 || target > lengthBytes) {
      throw new EOFException("strongroom: position " + target + " lies outside the file. Report this as a defect.");
    }
    position = target;
  }

  public long getPos() {
    return position;
  }

  public boolean seekToNewSource(long target) {
    return false;
  }

  public int available() {
    return (int) Math.min(Integer.MAX_VALUE, lengthBytes - position);
  }

  public int read() throws IOException {
    byte[] one = new byte[1];
    return read(one, 0, 1) < 0 ? -1 : one[0] & 255;
  }

  public int read(byte[] buffer, int offset, int size) throws IOException {
    int count = read(position, buffer, offset, size);
    position += Math.max(count, 0);
    return count;
  }

  public int read(ByteBuffer buffer) throws IOException {
    if (buffer.hasArray()) {
      int count = read(buffer.array(), buffer.arrayOffset() + buffer.position(), buffer.remaining());
      buffer.position(buffer.position() + Math.max(count, 0));
      return count;
    }
    byte[] copy = new byte[Math.min(buffer.remaining(), 1 << 20)];
    int count = read(copy, 0, copy.length);
    buffer.put(copy, 0, Math.max(count, 0));
    return count;
  }

  public int read(long from, byte[] buffer, int offset, int size) throws IOException {
    if (size == 0) {
      return 0;
    }
    if (from < 0 || from >= lengthBytes) {
      return -1;
    }
    if (from < tailStart) {
      int count = (int) Math.min(Math.min(size, MAX_READ_BYTES), tailStart - from);
      return storage.read(ByteBuffer.wrap(buffer, offset, count), from);
    }
    int count = (int) Math.min(size, lengthBytes - from);
    System.arraycopy(tail, (int) (from - tailStart), buffer, offset, count);
    return count;
  }

  public void close() throws IOException {
    storage.close();
  }

  private static void readFully(FileChannel storage, long from, ByteBuffer buffer) throws IOException {
    while (buffer.hasRemaining()) {
      int count = storage.read(buffer, from);
      if (count < 0) {
        throw new EOFException("strongroom: a file of storage became shorter while it was read. Restore it from the owner's copy.");
      }
      from += count;
    }
  }
}
