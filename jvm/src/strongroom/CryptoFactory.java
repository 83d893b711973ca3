package strongroom;

import java.io.IOException;
import java.nio.file.Paths;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.Path;
import org.apache.parquet.crypto.DecryptionPropertiesFactory;
import org.apache.parquet.crypto.EncryptionPropertiesFactory;
import org.apache.parquet.crypto.FileDecryptionProperties;
import org.apache.parquet.crypto.FileEncryptionProperties;
import org.apache.parquet.crypto.ParquetCipher;
import org.apache.parquet.crypto.ParquetCryptoRuntimeException;
import org.apache.parquet.hadoop.api.WriteSupport;

/**
 * Gives Parquet the key and AAD prefix of each file of a dataset.
 *
 * <p>Plain Parquet is allowed below the TEE's scratch folder only.
 */
public final class CryptoFactory implements EncryptionPropertiesFactory, DecryptionPropertiesFactory {
  private static final String SCRATCH_VARIABLE = "STRONGROOM_SCRATCH";

  public FileEncryptionProperties getFileEncryptionProperties(Configuration conf, Path path, WriteSupport.WriteContext context) {
    if (isScratch(path)) {
      return null;
    }
    try {
      DatasetPath file = DatasetPath.of(path);
      Agent.FileKey key = Agent.encryption(file);
      NewFiles.giveKey(file);
      return FileEncryptionProperties.builder(key.key).withAlgorithm(ParquetCipher.AES_GCM_V1).withAADPrefix(key.aadPrefix).build();
    } catch (IOException e) {
      throw new ParquetCryptoRuntimeException(e.getMessage(), e);
    }
  }

  public FileDecryptionProperties getFileDecryptionProperties(Configuration conf, Path path) {
    if (isScratch(path)) {
      return null;
    }
    try {
      Agent.FileKey key = Agent.decryption(DatasetPath.of(path));
      return FileDecryptionProperties.builder().withFooterKey(key.key).withAADPrefix(key.aadPrefix).build();
    } catch (IOException e) {
      throw new ParquetCryptoRuntimeException(e.getMessage(), e);
    }
  }

  private static boolean isScratch(Path path) {
    String scheme = path.toUri().getScheme();
    if (scheme != null && !scheme.equals("file")) {
      return false;
    }
    String scratch = System.getenv(SCRATCH_VARIABLE);
    if (scratch == null || !Paths.get(path.toUri().getPath()).normalize().startsWith(Paths.get(scratch))) {
      throw new ParquetCryptoRuntimeException("strongroom: " + path + " lies outside the protected scratch folder."
          + " Bind it as a dataset and use strongroom://NAME.");
    }
    return true;
  }
}
