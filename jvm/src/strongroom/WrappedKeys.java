package strongroom;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.security.GeneralSecurityException;
import java.util.Arrays;
import javax.crypto.Cipher;
import javax.crypto.spec.GCMParameterSpec;
import javax.crypto.spec.SecretKeySpec;
import org.apache.parquet.crypto.DecryptionKeyRetriever;
import org.apache.parquet.crypto.KeyAccessDeniedException;
import org.apache.parquet.crypto.ParquetCryptoRuntimeException;

/**
 * Opens the keys that stand in a file's key metadata, where columns have keys of their own.
 *
 * <p>A wrapped key is version (0x01), nonce (12 bytes), ciphertext and tag: AES-256-GCM, bound to dataset, write, file and column.
 */
final class WrappedKeys implements DecryptionKeyRetriever {
  private static final byte VERSION = 1;
  private static final int NONCE_BYTES = 12;
  private static final int TAG_BITS = 128;
  private static final String FOOTER = "footer";
  private static final String COLUMN = "column/";
  private static final ObjectMapper JSON = new ObjectMapper();

  private final DatasetPath file;
  private final Agent.FileKey keys;

  WrappedKeys(DatasetPath file, Agent.FileKey keys) {
    this.file = file;
    this.keys = keys;
  }

  /**
   * Returns the key that key metadata hold.
   *
   * @throws KeyAccessDeniedException the column's key was not released to this run
   * @throws ParquetCryptoRuntimeException the metadata are another file's, or were changed
   */
  public byte[] getKey(byte[] metadata) {
    JsonNode material = parse(metadata);
    String name = KeySocket.field(material, "masterKeyID").asText();
    return unwrap(wrapping(name), KeySocket.field(material, "wrappedDEK"));
  }

  private JsonNode parse(byte[] metadata) {
    try {
      JsonNode material = JSON.readTree(metadata);
      boolean known = material != null && "PKMT1".equals(KeySocket.field(material, "keyMaterialType").asText())
          && KeySocket.field(material, "doubleWrapping").isBoolean() && !KeySocket.field(material, "doubleWrapping").asBoolean();
      if (known) {
        return material;
      }
    } catch (IOException e) {
      throw refused(e);
    }
    throw refused(null);
  }

  private Agent.Key wrapping(String name) {
    if (name.equals(FOOTER)) {
      return keys.key;
    }
    if (!name.startsWith(COLUMN)) {
      throw refused(null);
    }
    String column = name.substring(COLUMN.length());
    Agent.Key key = (Agent.Key) keys.columns.get(column);
    if (key == null) {
      throw new KeyAccessDeniedException("strongroom: column " + column + " of dataset " + file.dataset + " has a key of its own,"
          + " which no approval opens to this application. Leave the column out, or have its owner approve it: --column " + column);
    }
    return key;
  }

  private byte[] unwrap(Agent.Key wrapping, JsonNode text) {
    try {
      byte[] sealed = text.isTextual() ? text.binaryValue() : null;
      if (sealed == null || sealed.length <= 1 + NONCE_BYTES || sealed[0] != VERSION) {
        throw refused(null);
      }
      Cipher cipher = Cipher.getInstance("AES/GCM/NoPadding");
      byte[] nonce = Arrays.copyOfRange(sealed, 1, 1 + NONCE_BYTES);
      cipher.init(Cipher.DECRYPT_MODE, new SecretKeySpec(wrapping.key, "AES"), new GCMParameterSpec(TAG_BITS, nonce));
      cipher.updateAAD(new byte[] {VERSION});
      cipher.updateAAD(wrapping.companion);
      return cipher.doFinal(sealed, 1 + NONCE_BYTES, sealed.length - 1 - NONCE_BYTES);
    } catch (IOException e) {
      throw refused(e);
    } catch (GeneralSecurityException e) {
      throw refused(e);
    }
  }

  private ParquetCryptoRuntimeException refused(Exception cause) {
    return new ParquetCryptoRuntimeException("strongroom: " + file + " is refused: its keys are not those that were written there,"
        + " so it is not what the owner's manifest lists. Restore the file from the owner's copy.", cause);
  }
}
